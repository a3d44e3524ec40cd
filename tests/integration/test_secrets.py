"""Nothing secret where others could look: a head that boots a node, searched for every key and token that there is."""

import asyncio
import base64
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.behind import Behind
from lab.head import Head
from lab.inside import inside
from lab.leaks import Secrets, below, leaking, leaks
from lab.net import Lan
from lab.robbery import ADDRESS, ALARM, MAC, NODE, Robbery
from lab.space import Namespace, run
from shoal_identity.keys import Key
from shoal_model import ports, subjects
from shoal_model.subjects import Service, Stage

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
_SEED = re.compile(rb"S[UA][A-Z2-7]{56}")
_KNOWN = {"tests/unit/test_identity_keys.py", "tests/unit/test_tftp_scripts.py"}
"""Tests with seeds that everybody knows: published test vectors."""
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
_CORE = re.compile(r"/(shoal-\S+|nats-server) .*?Max core file size (\S+) (\S+)")


@pytest.fixture(scope="module")
def robbery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robbery]:
    """A head that has had something to do: a node booted, a thief came, a command was refused, a service killed."""
    folder = tmp_path_factory.mktemp("head")
    with Namespace() as space:
        lan = Lan(space, "br0", "10.77.0.1/24")
        with Head(space, "br0", folder / "state", {"SHOAL_LOG_LEVEL": "debug"}).start() as head:
            robbery = Robbery(head)
            with Behind(lan, NODE, MAC, f"{ADDRESS}/24") as node, inside(node):
                asyncio.run(robbery.happen(node))
            head.try_shoal("node", "show", "nobody")
            run(space, "pkill", "-9", "-f", "shoal-fleet")
            _until_back(head, "fleet")
            yield robbery


def _until_back(head: Head, service: str) -> None:
    """Return when a service that was killed answers again."""
    page, deadline = f"http://127.0.0.1:{ports.METRICS[service]}/readyz", time.monotonic() + 60
    ended = f"{service} ended with signal 9"
    while ended not in head.log.read_text() or not run(head.space, "curl", "-sf", page, check=False):
        assert time.monotonic() < deadline, head.tail()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def head(robbery: Robbery) -> Head:
    return robbery.head


@pytest.fixture(scope="module")
def files(head: Head) -> Secrets:
    """Every secret that is a file of the head: seeds as they are, private keys by a line from their middle."""
    found: dict[str, bytes] = {}
    for path in sorted((head.state / "keys").rglob("*")):
        if path.suffix == ".seed":
            found[str(path)] = path.read_bytes().strip()
        elif path.suffix == ".key":
            found[str(path)] = path.read_bytes().splitlines()[1]
    assert len(found) >= 17
    assert Key.from_seed(next(iter(s for p, s in found.items() if p.endswith("registry/bus.seed"))).decode())
    return found


@pytest.fixture(scope="module")
def secrets(robbery: Robbery, files: Secrets) -> Secrets:
    """Those, and what is in no file: boot tokens, also as the bytes that they stand for, and keys of node and thief."""
    found = {**files, "the node's seed": robbery.key.seed.encode(), "the thief's seed": robbery.thief.seed.encode()}
    for url, token in robbery.tokens.items():
        found[f"the token in {url}"] = token.encode()
        found[f"the token in {url}, decoded"] = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    return found


@pytest.fixture(scope="module")
def control(robbery: Robbery) -> Secrets:
    """What is no secret and can be found: a search that finds it nowhere has looked at nothing."""
    return {"the node's public key": robbery.key.public.encode()}


def test_what_is_inside_base64_is_found() -> None:
    for before in range(4):
        assert leaks({"it": b"secret"}, base64.b64encode(b"x" * before + b"secret" + b"y")) == ["it"]
    assert leaks({"it": b"secret"}, base64.b64encode(b"another")) == []


def test_no_command_line_and_no_environment_holds_a_secret(head: Head, secrets: Secrets) -> None:
    shown = run(head.space, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
    assert "SHOAL_KEY=" in shown
    for program in ("nats-server", "shoal", *(f"shoal-{service}" for service in Service)):
        assert re.search(rf"/{program}$", shown, re.MULTILINE), program
    assert leaks(secrets, shown.encode()) == []
    assert not _SEED.search(shown.encode())


def test_no_log_holds_a_secret(head: Head, secrets: Secrets, control: Secrets) -> None:
    logs = [head.log, *below(head.state / "log", head.state / "logs")]
    assert {path.stem for path in logs} >= {"nats-server", "auth-2", *Service}
    assert any(b" debug " in path.read_bytes() for path in logs)
    assert leaking(control, [path for path in logs if path.stem in {"auth", "auth-2"}])
    assert leaking(secrets, logs) == {}


def test_no_stored_message_holds_a_secret(head: Head, secrets: Secrets, control: Secrets) -> None:
    stored = below(head.state / "nats")
    for stream in ("KV_identity", "EVENTS"):
        assert leaking(control, [path for path in stored if stream in path.parts]), stream
    assert leaking(secrets, stored) == {}


def test_no_other_file_holds_a_secret(head: Head, secrets: Secrets) -> None:
    known = {head.state / folder for folder in ("keys", "log", "logs", "nats")}
    others = [path for path in below(head.state) if not known & set(path.parents)]
    assert {path.name for path in others} >= {"ca.crt", "context.yaml", "nats.conf"}
    assert leaking(secrets, others) == {}


def test_no_event_holds_a_secret(robbery: Robbery, secrets: Secrets, control: Secrets) -> None:
    """As an operator hears them; what else travels on the bus is for others than him."""
    heard = {message.subject for message in robbery.heard}
    assert heard >= {
        ALARM,
        subjects.event("node", NODE, "changed"),
        subjects.event("image", "compute", "published"),
        subjects.event("identity", NODE, "changed"),
        subjects.boot_event(NODE, Stage.LOADER_CONFIG),
        subjects.boot_event(NODE, Stage.STAGE1_START),
        subjects.boot_event(NODE, Stage.STAGE1_BUS),
    }
    assert any(leaks(control, message.body) for message in robbery.heard if message.subject == ALARM)
    told = [(message.subject, leaks(secrets, message.subject.encode() + message.body)) for message in robbery.heard]
    assert [(subject, found) for subject, found in told if found] == []


def test_no_secret_file_may_be_read_by_others(head: Head, secrets: Secrets, files: Secrets) -> None:
    open_to_others = [
        path
        for path in below(head.state)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and _reachable(path, head.state)
    ]
    assert open_to_others  # ca.crt at least, and context.yaml
    assert leaking(secrets, open_to_others) == {}
    for path in files:
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def test_a_core_of_no_program_is_written(head: Head) -> None:
    script = "for p in /proc/[0-9]*; do echo $(tr '\\0' ' ' <$p/cmdline) $(grep 'Max core' $p/limits); done"
    limits = [found.groups() for found in map(_CORE.search, run(head.space, "sh", "-c", script).splitlines()) if found]
    programs = ["nats-server", *(f"shoal-{service}" for service in [*Service, Service.AUTH])]
    assert sorted(limits) == sorted((program, "0", "0") for program in programs)


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
