"""Nothing secret where others could look: a head at work, searched for every key that it has."""

import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.head import Head
from lab.net import Lan
from lab.space import Namespace, run
from shoal_identity.keys import Key

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
CLUSTER = """\
networks:
  boot: {cidr: 10.77.0.0/24, head: 10.77.0.1, boot: true}
images:
  compute: {flavor: bookworm, version: "1.0", modules: [core]}
templates:
  compute: {image: compute}
nodes:
  n001: {mac: 52:54:00:77:00:11, address: 10.77.0.11, template: compute}
"""
_SEED = re.compile(rb"S[UA][A-Z2-7]{56}")
_KNOWN = {"tests/unit/test_identity_keys.py", "tests/unit/test_tftp_scripts.py"}
"""Tests with seeds that everybody knows: published test vectors."""
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that has had something to do: a configuration, an armed boot, a refused command, a service killed."""
    folder = tmp_path_factory.mktemp("head")
    with Namespace() as space:
        Lan(space, "br0", "10.77.0.1/24")
        with Head(space, "br0", folder / "state", {"SHOAL_LOG_LEVEL": "debug"}).start() as head:
            head.shoal("apply", "-f", "-", stdin=CLUSTER)
            head.shoal("boot", "arm", "n001")
            head.try_shoal("node", "show", "nobody")
            run(space, "pkill", "-9", "-f", "shoal-fleet")
            deadline = time.monotonic() + 60
            while "fleet ended with signal 9" not in head.log.read_text():
                assert time.monotonic() < deadline, head.tail()
                time.sleep(0.1)
            yield head


@pytest.fixture(scope="module")
def secrets(head: Head) -> dict[str, bytes]:
    """Every secret of the head by its file: seeds as they are, private keys by a line from their middle."""
    found: dict[str, bytes] = {}
    for path in sorted((head.state / "keys").rglob("*")):
        if path.suffix == ".seed":
            found[str(path)] = path.read_bytes().strip()
        elif path.suffix == ".key":
            found[str(path)] = path.read_bytes().splitlines()[1]
    assert len(found) >= 17
    assert Key.from_seed(next(iter(s for p, s in found.items() if p.endswith("registry/bus.seed"))).decode())
    return found


def leaks(secrets: dict[str, bytes], content: bytes) -> list[str]:
    return [path for path, secret in secrets.items() if secret in content]


def test_no_command_line_and_no_environment_holds_a_secret(head: Head, secrets: dict[str, bytes]) -> None:
    shown = run(head.space, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
    assert "SHOAL_KEY=" in shown  # it is the services that were looked at
    assert leaks(secrets, shown.encode()) == []
    assert not _SEED.search(shown.encode())


def test_no_log_and_no_stored_message_holds_a_secret(head: Head, secrets: dict[str, bytes]) -> None:
    looked_at = [head.log, *(path for path in head.state.rglob("*") if path.is_file())]
    looked_at = [path for path in looked_at if head.state / "keys" not in path.parents]
    assert any(path.suffix == ".blk" for path in looked_at)  # JetStream's files: records, events, state
    assert {
        path.name: leaks(secrets, path.read_bytes()) for path in looked_at if leaks(secrets, path.read_bytes())
    } == {}


def test_no_secret_file_may_be_read_by_others(head: Head, secrets: dict[str, bytes]) -> None:
    open_to_others = [
        str(path)
        for path in head.state.rglob("*")
        if path.is_file() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and _reachable(path, head.state)
    ]
    assert open_to_others  # ca.crt at least, and context.yaml
    assert [path for path in open_to_others if leaks(secrets, Path(path).read_bytes())] == []
    for path in secrets:
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def test_a_core_of_a_service_is_not_written(head: Head) -> None:
    limits = run(head.space, "sh", "-c", "cat /proc/$(pgrep -o -f shoal-registry)/limits")
    [core] = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]


def test_the_repository_holds_no_key() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    assert len(files) > 100
    found = {
        str(path.relative_to(ROOT))
        for path in files
        if path.is_file() and (_real_seed(path.read_bytes()) or _PRIVATE_KEY.search(path.read_bytes()))
    }
    assert found <= _KNOWN


def _real_seed(content: bytes) -> bool:
    """Whether this holds a seed that is one: test vectors with a broken checksum do not count."""
    for match in _SEED.finditer(content):
        try:
            Key.from_seed(match[0].decode())
        except ValueError:
            continue
        return True
    return False


def _reachable(path: Path, top: Path) -> bool:
    """Whether somebody else may walk to this file below the state directory."""
    folders = [parent for parent in path.parents if parent == top or top in parent.parents]
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)
