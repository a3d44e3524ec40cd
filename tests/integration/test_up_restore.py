"""A head from a copy of its state directory, and from a state directory of the time before identity."""

import asyncio
import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab.behind import Behind
from lab.head import Head
from lab.inside import inside
from lab.nats_peer import NatsPeer
from lab.net import Lan
from lab.peers import peer, turned_away
from lab.space import Namespace
from shoal_bus import codec
from shoal_cli.identity.layout import BOOT, PAIRS, SEEDS, Layout
from shoal_identity import tokens
from shoal_identity.keys import Key
from shoal_model.messages import Heartbeat
from shoal_model.subjects import node_topic

pytestmark = pytest.mark.integration

MAC, ADDRESS = "52:54:00:77:00:11", "10.77.0.11"
CLUSTER = f"""\
networks:
  boot: {{cidr: 10.77.0.0/24, head: 10.77.0.1, boot: true}}
nodes:
  n001: {{mac: {MAC}, address: {ADDRESS}}}
"""


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace() as space:
        yield space


@pytest.fixture(autouse=True)
def lan(space: Namespace) -> Lan:
    return Lan(space, "br0", "10.77.0.1/24")


@pytest.fixture
def node(lan: Lan) -> Iterator[Behind]:
    """The network of n001: nothing runs there but what a test says in its name."""
    with Behind(lan, "n001", MAC, f"{ADDRESS}/24") as node:
        yield node


def identity(state: Path) -> list[str | bytes]:
    """What nodes, services and operators know this head by."""
    files = Layout(state)
    public: list[str | bytes] = [Key.read(files.seed(seed)).public for seed in SEEDS]
    return [*public, files.trust.read_bytes(), *(files.certificate(pair).read_bytes() for pair in PAIRS)]


def denied(head: Head) -> list[str]:
    logs = (head.state / "log").glob("*.log")
    return [line for log in logs for line in log.read_text().splitlines() if "denied" in line.lower()]


def boot_token(head: Head) -> str:
    """What the boot file server of this head would say of a boot of n001 that begins now."""
    key = Key.read(Layout(head.state).seed(BOOT))
    now = int(time.time())
    return tokens.mint(tokens.BootToken("n001", MAC, ADDRESS, secrets.token_hex(8), now + tokens.LIFETIME), key)


def asked(head: Head, *command: str) -> Any:  # noqa: ANN401 - parsed JSON
    return json.loads(head.shoal(*command, "-o", "json"))


async def come_in(head: Head, key: Key, token: str) -> None:
    """Boot as n001: before that, the key opens nothing."""
    assert await turned_away(head, key)
    async with peer(head, key, token) as speaker:
        await speak(head, speaker, "0011")


async def come_back(head: Head, key: Key, token: str) -> None:
    """Come as n001 with the key of its boot alone. Nobody else does, nor with that boot's token: it is spent, though
    another boot is expected.
    """
    stranger = Key.new()
    assert await turned_away(head, stranger)
    assert await turned_away(head, stranger, token)
    async with peer(head, key) as speaker:
        await speak(head, speaker, "0022")


async def speak(head: Head, speaker: NatsPeer, boot: str) -> None:
    """Have a heartbeat of n001 heard, and try another node's."""
    refused, _ = await speaker.refused(publish=[node_topic("n002", "heartbeat")])
    assert refused == {node_topic("n002", "heartbeat")}
    now = datetime.now(UTC)
    beat = Heartbeat(node="n001", boot=boot, at=now, uptime=9.0, load=0.1, memory_total=2, memory_available=1)
    speaker.publish(node_topic("n001", "heartbeat"), codec.encode(beat))
    await speaker.settle()
    async with asyncio.timeout(20):
        while True:
            said = await asyncio.to_thread(head.shoal, "node", "status", "n001", "-o", "json", check=False)
            [status] = json.loads(said)
            if status.get("heartbeat", {}).get("boot") == boot:
                break


def test_a_copy_of_the_state_directory_is_the_same_head(space: Namespace, node: Behind, tmp_path: Path) -> None:
    first, archive, key = Head(space, "br0", tmp_path / "state"), tmp_path / "state.tar", Key.new()
    with first.start():
        first.shoal("apply", "-f", "-", stdin=CLUSTER)
        first.shoal("boot", "arm", "n001")
        token = boot_token(first)
        with inside(node):
            asyncio.run(come_in(first, key, token))
        first.shoal("boot", "arm", "n001")
        known, bound, armed = identity(first.state), asked(first, "node", "keys"), asked(first, "boot", "armed")
    assert [(each["node"], each["party"]["key"], each["party"]["address"]) for each in bound] == [
        ("n001", key.public, ADDRESS)
    ]
    assert [each["node"] for each in armed] == ["n001"]
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
        with inside(node):
            asyncio.run(come_back(second, key, token))
        assert asked(second, "node", "keys") == bound
        assert asked(second, "boot", "armed") == armed
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
