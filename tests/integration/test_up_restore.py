"""A head from a copy of its state directory, and from a state directory of the time before identity."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.head import Head
from lab.net import Lan
from lab.space import Namespace
from shoal_cli.identity.layout import PAIRS, SEEDS, Layout
from shoal_identity.keys import Key

pytestmark = pytest.mark.integration

CLUSTER = """\
networks:
  boot: {cidr: 10.77.0.0/24, head: 10.77.0.1, boot: true}
nodes:
  n001: {mac: 52:54:00:77:00:11, address: 10.77.0.11}
"""


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace() as space:
        Lan(space, "br0", "10.77.0.1/24")
        yield space


def identity(state: Path) -> list[str | bytes]:
    """What nodes, services and operators know this head by."""
    files = Layout(state)
    public: list[str | bytes] = [Key.read(files.seed(seed)).public for seed in SEEDS]
    return [*public, files.trust.read_bytes(), *(files.certificate(pair).read_bytes() for pair in PAIRS)]


def denied(head: Head) -> list[str]:
    logs = (head.state / "log").glob("*.log")
    return [line for log in logs for line in log.read_text().splitlines() if "denied" in line.lower()]


def test_a_copy_of_the_state_directory_is_the_same_head(space: Namespace, tmp_path: Path) -> None:
    first, archive = Head(space, "br0", tmp_path / "state"), tmp_path / "state.tar"
    with first.start():
        first.shoal("apply", "-f", "-", stdin=CLUSTER)
        known = identity(first.state)
    subprocess.run(["tar", "-C", first.state, "-cf", archive, "."], check=True)
    shutil.rmtree(first.state)
    second = Head(space, "br0", tmp_path / "elsewhere")
    second.state.mkdir()
    subprocess.run(["tar", "-C", second.state, "-xf", archive], check=True)
    with second.start():
        assert identity(second.state) == known
        assert "n001" in second.shoal("node", "list")
        assert second.access.key == second.state / "keys" / "operator" / "bus.seed"
        second.shoal("node", "set", "n001", "description=restored")
        assert denied(second) == []


def test_a_head_of_the_time_before_identity_keeps_its_records(space: Namespace, tmp_path: Path) -> None:
    head = Head(space, "br0", tmp_path / "state")
    with head.start():
        head.shoal("apply", "-f", "-", stdin=CLUSTER)
    shutil.rmtree(head.state / "keys")
    (head.state / "ca.crt").unlink()
    stored = head.state / "nats" / "jetstream"
    (stored / "CLUSTER").rename(stored / "$G")
    (head.state / "context.yaml").write_text("nats: nats://10.77.0.1:4222\n")
    with head.start():
        assert "n001" in head.shoal("node", "list")
        assert denied(head) == []
