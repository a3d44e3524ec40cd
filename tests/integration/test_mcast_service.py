"""The real shoal-mcastd with a real nats-server, and receivers in network namespaces of their own behind a bridge."""

import asyncio
import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import aiohttp
import pytest

from lab import mcast_node
from lab.certificates import Authority
from lab.inside import inside
from lab.nats_server import NatsServer
from lab.net import Lan
from lab.space import Here, Namespace, Running, run
from shoal_bus import codec
from shoal_bus.api import Write
from shoal_bus.nats import NatsBus
from shoal_identity import trust
from shoal_model.messages import BootEvent, Empty, JoinReply, JoinRequest, SessionInfo, SessionsReply
from shoal_model.records import Cluster, Geometry, ImageManifest, ImageRelease, Kind, compact, record_key
from shoal_model.subjects import Stage
from shoal_service.store import BlobStore

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

HEAD, NODES = "10.77.0.1", {"n001": "10.77.0.11", "n002": "10.77.0.12"}
SIZE = 30_000_000
METRICS = "127.0.0.1:9106"
CLUSTER = Cluster.model_validate(
    {
        "networks": {"boot": {"cidr": "10.77.0.0/24", "head": HEAD, "boot": True}},
        "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
        "nodes": {
            node: {"mac": f"52:54:00:77:00:{address[-2:]}", "address": address, "image": "compute"}
            for node, address in NODES.items()
        },
    }
)


@dataclass
class Site:
    """A head and a namespace for each node, on one bridge."""

    nodes: dict[str, Namespace]

    def lose(self, node: str, percent: float) -> None:
        """From now on each datagram to or from this node is lost at random."""
        share = int(percent * 100)
        self.rules(node, f"udp dport 17081 numgen random mod 10000 < {share} drop")
        run(Here(), "nft", "-f", "-", stdin=_table(f"t{node}", "input", f"ip saddr {NODES[node]} ip protocol udp "
            f"numgen random mod 10000 < {share} drop"))  # fmt: skip

    def rules(self, node: str, rule: str) -> None:
        """A rule for what arrives at a node."""
        run(self.nodes[node], "nft", "-f", "-", stdin=_table("lab", "input", rule))


def _table(name: str, hook: str, rule: str) -> str:
    return f"table ip {name} {{\n chain c {{\n type filter hook {hook} priority 0\n {rule}\n }}\n}}\n"


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        head = stack.enter_context(Namespace())
        stack.enter_context(inside(head))
        lan, spaces = Lan(head, "boot0", f"{HEAD}/24"), {}
        for node, address in NODES.items():
            spaces[node] = stack.enter_context(Namespace())
            keeper = spaces[node].command(())[2]
            run(Here(), "ip", "link", "add", node, "type", "veth", "peer", "name", "boot0", "netns", keeper)
            # datagrams cross the wire one by one, as from a real NIC: loss then hits single ones
            run(Here(), "ip", "link", "set", node, "gso_max_segs", "1", "master", lan.bridge, "up")
            run(spaces[node], "ip", "address", "add", f"{address}/24", "dev", "boot0")
            run(spaces[node], "ip", "link", "set", "boot0", "up")
        yield Site(spaces)


@pytest.fixture
def nats_server(site: Site, tmp_path: Path) -> Iterator[NatsServer]:
    """The one of `conftest`, but on the head, where nodes reach it."""
    server = NatsServer(tmp_path / "nats", host="0.0.0.0")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def manifest(tmp_path: Path) -> ImageManifest:
    """An image of random bytes in the store."""
    content = random.Random(7).randbytes(SIZE)
    (tmp_path / "squashfs").write_bytes(content)
    digest, size = BlobStore(tmp_path / "store").add(tmp_path / "squashfs")
    geometry, file = Geometry(), {"sha256": digest, "size": size}
    step = geometry.block_size
    blocks = [hashlib.sha256(content[start : start + step]).hexdigest() for start in range(0, size, step)]
    return ImageManifest.model_validate(
        {
            "image": "compute", "flavor": "bookworm", "version": "1.0", "identity": digest, "content": digest,
            "modules": [], "kernel_version": "6.1", "squashfs": file, "kernel": file, "initrd": file,
            "geometry": geometry, "blocks": blocks,
        }
    )  # fmt: skip


class Receiver:
    """A node's program, running in its namespace."""

    def __init__(self, site: Site, node: str, nats: NatsServer, manifest: ImageManifest, target: Path) -> None:
        plan = {
            "nats": f"nats://{HEAD}:{nats.port}", "node": node, "address": NODES[node], "beacon": 2.0,
            "image": manifest.squashfs.sha256, "blocks": manifest.blocks, "target": str(target / node),
            "ca": str(target / "ca.crt"),
        }  # fmt: skip
        self.path = target / node
        self._errors = (target / f"{node}.stderr").open("w+b")
        self.running = Running(
            site.nodes[node], [sys.executable, mcast_node.__file__, json.dumps(plan)],
            stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip

    async def result(self, within: float = 60.0) -> dict[str, Any]:
        async with asyncio.timeout(within):
            lines = await asyncio.to_thread(self._output.read)
        self._errors.seek(0)
        assert await asyncio.to_thread(self.running.process.wait, 10) == 0, self._errors.read().decode()
        outcome: dict[str, Any] = json.loads(lines.splitlines()[-1])
        return outcome

    async def joined(self) -> int:
        async with asyncio.timeout(20):
            return int(json.loads(await asyncio.to_thread(self._output.readline))["joined"])

    def close(self) -> None:
        self.running.stop()
        self._output.close()
        self._errors.close()

    @property
    def _output(self) -> IO[bytes]:
        assert self.running.process.stdout is not None
        return self.running.process.stdout

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


Start = Callable[[str], Receiver]


@pytest.fixture
def start(site: Site, nats_server: NatsServer, manifest: ImageManifest, tmp_path: Path) -> Iterator[Start]:
    """Starts the program of a node."""
    with ExitStack() as stack:

        def begin(node: str) -> Receiver:
            receiver = Receiver(site, node, nats_server, manifest, tmp_path)
            stack.callback(receiver.close)
            return receiver

        yield begin


class Service:
    """A running shoal-mcastd and what it told on the bus."""

    def __init__(self, bus: NatsBus) -> None:
        self.bus = bus
        self.events: dict[str, SessionInfo] = {}
        self._told = asyncio.Condition()

    async def hear(self, subject: str, info: SessionInfo) -> None:
        async with self._told:
            self.events[subject.rpartition(".")[2]] = info
            self._told.notify_all()

    async def told(self, what: str) -> SessionInfo:
        """What the session's event `started` or `ended` said."""
        async with asyncio.timeout(40), self._told:
            await self._told.wait_for(lambda: what in self.events)
            return self.events[what]

    async def booting(self, *nodes: str) -> None:
        for node in nodes:
            event = BootEvent(node=node, stage=Stage.LOADER_INITRD, at=datetime.now(UTC))
            await self.bus.emit(f"evt.boot.{node}.loader.initrd", event)


@pytest.fixture
async def service(
    site: Site, nats_server: NatsServer, bus: NatsBus, manifest: ImageManifest, tmp_path: Path
) -> AsyncIterator[Service]:
    """Records in the bucket, the service ready, with TLS; at the end it must drain well."""
    store = await bus.store("records")
    release = ImageRelease(manifest=manifest, built=datetime.now(UTC))
    records = [
        (Kind.NETWORK, CLUSTER.networks), (Kind.IMAGE, CLUSTER.images), (Kind.NODE, CLUSTER.nodes),
        (Kind.IMAGE_RELEASE, {"compute": release}),
    ]  # fmt: skip
    writes = [
        Write(record_key(kind, name), codec.pack(compact(record)))
        for kind, named in records
        for name, record in named.items()  # type: ignore[attr-defined]
    ]
    await store.commit([*writes, Write("head", codec.pack({"revision": 1}))])
    service = Service(bus)
    await bus.subscribe("evt.session.>", SessionInfo, service.hear)
    authority = Authority()
    authority.issue(tmp_path / "tls.crt", tmp_path / "tls.key", HEAD)
    (tmp_path / "ca.crt").write_bytes(authority.trust.dump())
    environment = {
        "SHOAL_NATS": nats_server.url, "SHOAL_STATE": str(tmp_path), "SHOAL_INTERFACE": "boot0",
        "SHOAL_RATE": "60000000", "SHOAL_GATHER": "12",
        "SHOAL_TLS_CERT": str(tmp_path / "tls.crt"), "SHOAL_TLS_KEY": str(tmp_path / "tls.key"),
    }  # fmt: skip
    with (tmp_path / "mcastd.log").open("wb") as log:
        program = Running(
            Here(), [str(Path(sys.executable).with_name("shoal-mcastd"))], env=environment, stdout=log, stderr=log
        )
        try:
            await _ready(program)
            yield service
            assert await asyncio.to_thread(program.stop) == 0
        finally:
            print((tmp_path / "mcastd.log").read_text())  # noqa: T201 - shown if the test fails
            program.stop()


async def _ready(program: Running) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        while True:
            assert program.running
            try:
                async with http.get(f"http://{METRICS}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("loss", "most"), [(0.0, 1.02), (1.0, 1.08), (5.0, 1.2)])
async def test_two_nodes_share_one_session(
    site: Site, service: Service, start: Start, manifest: ImageManifest, loss: float, most: float
) -> None:
    if loss:
        for node in NODES:
            site.lose(node, loss)
    await service.booting(*NODES)
    first = start("n001")
    await first.joined()
    await asyncio.sleep(2)  # the second one is awaited, for it is booting
    second = start("n002")
    outcomes = [await first.result(), await second.result()]
    info = await service.told("ended")
    sessions = await service.bus.call("rpc.mcastd.v1.sessions", Empty(), SessionsReply)
    async with aiohttp.ClientSession() as http, http.get(f"http://{METRICS}/metrics") as answer:
        figures = await answer.text()
    assert [outcome["multicast"]["reason"] for outcome in outcomes] == [None, None]
    assert outcomes[0]["session"] == outcomes[1]["session"] == info.session
    assert first.digest == second.digest == manifest.squashfs.sha256
    assert (info.receivers, info.complete, info.size) == (2, 2, SIZE)
    assert SIZE < info.sent <= most * SIZE
    assert sessions.sessions == [info]
    assert service.events["started"].session == info.session
    assert float(figures.split("\nshoal_mcastd_sent_bytes_total ")[1].split()[0]) == info.sent
    assert "\nshoal_mcastd_sessions 0.0\n" in figures
    print(f"loss {loss} %: sent {info.sent / SIZE:.4f}, seconds {outcomes[1]['multicast']['seconds']:.2f}")  # noqa: T201


async def test_whole_bursts_arrive_where_the_network_keeps_them_whole(
    service: Service, start: Start, manifest: ImageManifest
) -> None:
    for node in NODES:
        run(Here(), "ip", "link", "set", node, "gso_max_segs", "65535")
    await service.booting(*NODES)
    receivers = [start(node) for node in NODES]
    outcomes = [await receiver.result() for receiver in receivers]
    info = await service.told("ended")
    assert all(outcome["multicast"]["complete"] for outcome in outcomes)
    assert {receiver.digest for receiver in receivers} == {manifest.squashfs.sha256}
    assert info.sent <= 1.02 * SIZE


@pytest.mark.parametrize("where", ["node", "head"])
async def test_where_multicast_is_blocked_http_brings_the_image(
    site: Site, service: Service, start: Start, manifest: ImageManifest, where: str
) -> None:
    if where == "node":
        site.rules("n001", "ip daddr 224.0.0.0/4 drop")
    else:  # there it is the sender's own system that refuses
        run(Here(), "nft", "-f", "-", stdin=_table("lab", "output", "ip daddr 224.0.0.0/4 drop"))
    receiver = start("n001")
    outcome = await receiver.result()
    info = await service.told("ended")
    assert "no multicast beacon from 239.77." in outcome["multicast"]["reason"]
    assert outcome["multicast"]["reason"].endswith(":17081 within 2 s")
    assert outcome["http"]["complete"]
    assert receiver.digest == manifest.squashfs.sha256
    assert (info.receivers, info.complete) == (1, 0)
    assert info.sent < SIZE / 100


async def test_a_killed_receiver_does_not_stop_the_other(
    service: Service, start: Start, manifest: ImageManifest
) -> None:
    await service.booting(*NODES)
    victim, other = (start(node) for node in NODES)
    await victim.joined()
    await other.joined()
    await service.told("started")
    await asyncio.sleep(0.15)
    victim.running.signal(signal.SIGKILL)
    outcome = await other.result(within=20)
    sessions = await service.bus.call("rpc.mcastd.v1.sessions", Empty(), SessionsReply)
    await asyncio.to_thread(victim.running.process.wait, 10)
    assert outcome["multicast"]["complete"]
    assert other.digest == manifest.squashfs.sha256
    (info,) = sessions.sessions
    assert (info.receivers, info.complete) == (2, 1)
    assert info.sent <= 1.3 * SIZE


async def test_a_late_node_joins_the_running_session(site: Site, service: Service, start: Start) -> None:
    site.rules("n001", "udp dport 17081 limit rate over 10 mbytes/second burst 1 mbytes drop")
    early = start("n001")
    await service.told("started")
    late = start("n002")
    outcomes = [await early.result(), await late.result()]
    info = await service.told("ended")
    assert all(outcome["multicast"]["complete"] for outcome in outcomes)
    assert outcomes[0]["session"] == outcomes[1]["session"]
    assert info.complete == 2
    assert info.sent < 3.5 * SIZE


async def test_joins_that_cannot_be_are_refused(service: Service, manifest: ImageManifest, tmp_path: Path) -> None:
    digest, other = manifest.squashfs.sha256, hashlib.sha256(b"another").hexdigest()
    cases = [
        ("n001", digest, "10.77.0.99", "cannot join from there"),
        ("n009", digest, "10.77.0.11", "no node 'n009'"),
        ("n001", other, "10.77.0.11", "holds no image"),
    ]
    for node, image, address, said in cases:
        request = JoinRequest(boot="b", image=image, address=address)
        with pytest.raises(Exception, match=said):
            await service.bus.call(f"rpc.mcastd.v1.join.{node}", request, JoinReply)
    tls = trust.parse((tmp_path / "ca.crt").read_bytes()).client_context()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http:
        async with http.get(f"https://{HEAD}:8081/blobs/{digest}", headers={"Range": "bytes=100-199"}) as answer:
            assert answer.status == 206
            assert await answer.read() == (tmp_path / "store/blobs" / digest).read_bytes()[100:200]
        async with http.get(f"https://{HEAD}:8081/blobs/{other}") as answer:
            assert answer.status == 404
