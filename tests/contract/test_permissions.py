"""What a real nats-server lets each connection publish and subscribe to. Who may what is written down here by hand, or
is said by the contract's `sender` and `receiver`; nothing comes from `permissions`.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

import shoal_fleet.service
import shoal_registry.service
from lab.nats_peer import NatsPeer, Refused
from lab.nats_server import NatsServer
from lab.secure import SecureServer
from shoal_bus import server_config
from shoal_bus.connection import Credentials
from shoal_bus.errors import Unavailable
from shoal_bus.nats import NatsBus
from shoal_bus.reader import last_sequence
from shoal_identity.keys import Key
from shoal_model import contract, permissions
from shoal_model import messages as m
from shoal_model.permissions import PRINCIPALS
from shoal_model.subjects import BOOT_EVENTS, Service, Stage, boot_event, rpc
from shoal_service.records import RecordsView

SERVICES = frozenset(map(str, Service))
EVERYBODY = SERVICES | {"operator"}
READERS = SERVICES - {"image-builder"}
NOBODY: frozenset[str] = frozenset()
STREAMS = ("EVENTS", "TOLD", "JOBS", "KV_records", "KV_state", "KV_identity", "KV_secrets")

Who = frozenset[str] | set[str]

BUCKETS: Mapping[str, Who] = {
    "$KV.records.head": {"registry"},
    "$KV.records.node.n001": {"registry"},
    "$KV.records.claim.mac.525400770011": {"registry"},
    "$KV.secrets.ssh.host": {"registry"},
    "$KV.identity.node.n001": {"auth"},
    "$KV.state.registry.effects": {"registry"},
    "$KV.state.machine.525400770011": {"registry"},
    "$KV.state.fleet.n001": {"fleet"},
    "$KV.state.exec.0011": {"fleet"},
    "$KV.state.other": NOBODY,
    "$KV.other.key": NOBODY,
}
"""Who may write a key."""

READING: Mapping[str, Mapping[str, Who]] = {
    "EVENTS": {
        "evt.boot.>": {"fleet", "operator"},
        "evt.boot.n001.>": {"fleet", "operator"},
        "evt.node.*.log": {"fleet", "operator"},
        "evt.node.*.changed": {"operator"},
        "evt.identity.>": {"operator"},
        "evt.job.>": {"operator"},
        "evt.>": {"operator"},
        ">": NOBODY,
    },
    "TOLD": {"told.>": NOBODY, ">": NOBODY},
    "JOBS": {"job.image.build.*": NOBODY, "job.>": NOBODY, ">": NOBODY},
    "KV_records": {"$KV.records.>": READERS, ">": NOBODY},
    "KV_state": {"$KV.state.>": {"registry", "fleet"}, ">": NOBODY},
    "KV_identity": {"$KV.identity.>": {"auth"}, ">": NOBODY},
    "KV_secrets": {"$KV.secrets.>": {"registry"}, ">": NOBODY},
}
"""Who may read which part of a stream."""

LOOKING: Mapping[str, Who] = {
    "EVENTS": EVERYBODY,
    "TOLD": {"registry"},
    "JOBS": SERVICES,
    "KV_records": SERVICES,
    "KV_state": SERVICES,
    "KV_identity": {"registry", "auth"},
    "KV_secrets": {"registry"},
}
"""Who may learn how a stream is."""

GETTING: Mapping[str, Who] = {
    "EVENTS": NOBODY,
    "TOLD": NOBODY,
    "JOBS": NOBODY,
    "KV_records": {"registry"},
    "KV_state": {"registry", "fleet"},
    "KV_identity": {"auth"},
    "KV_secrets": {"registry"},
}
"""Who may get any single message of a stream."""

FORBIDDEN = (
    *(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("DELETE", "PURGE", "MSG.DELETE") for stream in STREAMS),
    *(f"$JS.API.{verb}.{stream}" for verb in ("DIRECT.GET", "STREAM.SNAPSHOT", "STREAM.RESTORE") for stream in STREAMS),
    *(f"$JS.API.CONSUMER.{verb}.{stream}" for verb in ("CREATE", "LIST", "NAMES") for stream in STREAMS),
    *(f"$JS.API.CONSUMER.{verb}.{stream}.c" for verb in ("CREATE", "DURABLE.CREATE", "INFO") for stream in STREAMS),
    "$JS.API.INFO",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.CONSUMER.CREATE.JOBS.other.job.image.build.*",
    "$JS.API.CONSUMER.CREATE.JOBS.job_image_build.job.>",
    "$JS.API.CONSUMER.MSG.NEXT.JOBS.other",
    "$JS.API.CONSUMER.DELETE.JOBS.job_image_build",
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.ACCOUNT.CLUSTER.CONNZ",
    "$SYS.REQ.USER.AUTH",
    *(f"_INBOX.{who}.1.2" for who in sorted(EVERYBODY)),
    "_INBOX.node.n001.1.2",
    "rpc.registry.v1.other",
    "rpc.registry.v1.apply.n001",
    "rpc.other.v1.list",
    "node.n001.other",
    "evt.other.n001.happened",
    "told.other.n001.happened",
    "evt.other.n001.changed",
    "job.image.build",
    "job.other.build.1",
    "anything",
)
"""What nobody may publish."""


def publishing() -> dict[str, Who]:
    """Subjects, and who may publish to them."""
    table: dict[str, Who] = dict.fromkeys(FORBIDDEN, NOBODY)
    for one in (*contract.REQUESTS, *contract.EVENTS, *contract.NODE_TOPICS):
        table[concrete(one.subject)] = ends(one.sender)
    table["job.image.build.0011"] = {"registry", "image-builder"}
    table.update(BUCKETS)
    for stream in STREAMS:
        table[f"$JS.API.STREAM.CREATE.{stream}"] = table[f"$JS.API.STREAM.UPDATE.{stream}"] = {"registry"}
        table[f"$JS.API.STREAM.INFO.{stream}"] = LOOKING[stream]
        table[f"$JS.API.STREAM.MSG.GET.{stream}"] = GETTING[stream]
        for pattern, who in READING[stream].items():
            table[f"$JS.API.CONSUMER.CREATE.{stream}.mine.{pattern}"] = who
        readers = {reader for who in READING[stream].values() for reader in who}
        for subject in ("$JS.API.CONSUMER.MSG.NEXT.{}.mine", "$JS.API.CONSUMER.DELETE.{}.mine", "$JS.ACK.{}.c.1.1.1"):
            table[subject.format(stream)] = readers
    for subject in ("CREATE.JOBS.job_image_build.job.image.build.*", "MSG.NEXT.JOBS.job_image_build"):
        table[f"$JS.API.CONSUMER.{subject}"] = {"image-builder"}
    table["$JS.ACK.JOBS.job_image_build.1.1.1.1.0"] = {"image-builder"}
    table["$SRV.PING"] = table["$SRV.INFO.dhcp.0011"] = {"operator"}
    return table


def subscribing() -> dict[str, Who]:
    """Subjects, and who may subscribe to them."""
    table: dict[str, Who] = dict.fromkeys(
        (">", "*", "*.>", "_INBOX.>", "_INBOX.*.>", "$JS.>", "$KV.>", "$SYS.>"), NOBODY
    )
    for pattern in ("rpc.>", "rpc.registry.>", "node.>", "node.*.>", "node.n001.>", "job.>", "$SRV.>", "$KV.secrets.>"):
        table[pattern] = NOBODY
    for one in contract.REQUESTS:
        table[wild(one.subject)] = ends(one.receiver)
    for one in contract.NODE_TOPICS:
        table[wild(one.subject)] = ends(one.receiver)
    for one in contract.EVENTS:
        table[wild(one.subject)] = {"operator"}
    table["evt.>"] = {"operator"}
    table["evt.boot.>"] = table["evt.boot.*.*.*"] = {"operator", "mcastd"}
    table["evt.machine.*.seen"] = {"operator", "registry"}
    for who in EVERYBODY:
        table[f"_INBOX.{who}.>"] = table[f"_INBOX.{who}.0011.*"] = {who}
    for verb in ("PING", "INFO", "STATS"):
        table[f"$SRV.{verb}"] = SERVICES
        for service in SERVICES:
            table[f"$SRV.{verb}.{service}"] = table[f"$SRV.{verb}.{service}.0011"] = {service}
    return table


def now() -> datetime:
    return datetime.now(UTC)


def concrete(subject: str) -> str:
    """One that a row of the contract stands for."""
    named = {"<node>": "n001", "<stage>": "stage1.start", "<kind>": "template", "<mac>": "525400770011"}
    return re.sub("<[a-z]+>", lambda found: named.get(found[0], "one"), subject)


def wild(subject: str) -> str:
    return re.sub("<[a-z]+>", "*", subject.replace("<stage>", "*.*"))


def ends(told: str) -> Who:
    return set(told.split(", ")) - {"node"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    server = SecureServer(tmp_path_factory.mktemp("secure"))
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_who_may_publish_and_subscribe_to_what(server: SecureServer, principal: str) -> None:
    publish, subscribe = publishing(), subscribing()
    async with NatsPeer.open(server.port, server.keys[principal]) as peer:
        published, subscribed = await peer.refused(publish=publish, subscribe=subscribe)
    assert publish.keys() - published == {subject for subject, who in publish.items() if principal in who}
    assert subscribe.keys() - subscribed == {subject for subject, who in subscribe.items() if principal in who}


REFUSED_HEADERS = (
    "",
    "Nats-Expected-Stream: other",
    "Nats-Expected-Last-Sequence: 99",
    "Nats-Expected-Last-Subject-Sequence: 99",
    "Nats-Expected-Last-Msg-Id: other",
    "Nats-Batch-Id: a\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1",
    "Nats-Rollup: all",
    "Nats-TTL: never",
    "Nats-Incr: 1",
    "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: $KV.records.head",
    "Nats-Required-Api-Level: 99",
)
"""Of a message that is stored, and of messages that a stream refuses."""
EMPTY = b"\x80"


class Anything(BaseModel):
    pass


# --- nodes -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Nodes"]:
    server = Nodes(tmp_path_factory.mktemp("nodes"))
    server.start()
    yield server
    server.kill()


class Nodes(NatsServer):
    """Two nodes and the services, with the permissions that auth hands out: here they stand in the configuration."""

    def __init__(self, directory: Path) -> None:
        granted = {"n001": permissions.node("n001"), "n002": permissions.node("n002")}
        granted |= {str(who): permissions.of(who) for who in PRINCIPALS}
        self.keys = {who: Key.new() for who in granted}
        users = "\n".join(server_config.user(self.keys[who].public, may) for who, may in granted.items())
        super().__init__(directory, config=f"accounts {{ CLUSTER {{ jetstream: enabled, users: [\n{users}\n] }} }}")

    def peer(self, who: str) -> AbstractAsyncContextManager[NatsPeer]:
        return NatsPeer.open(self.port, self.keys[who])

    @asynccontextmanager
    async def bus(self, who: str) -> AsyncIterator[NatsBus]:
        credentials = Credentials(key=self.keys[who], inbox_prefix=f"_INBOX.{who}")
        bus = await NatsBus.connect(
            [self.url], name=who, credentials=credentials, timeout=10, creates=who == "registry"
        )
        yield bus
        await bus.close()


async def test_what_a_node_may_publish(nodes: Nodes) -> None:
    own = {
        "rpc.registry.v1.boot.n001",
        "rpc.mcastd.v1.join.n001",
        "rpc.mcastd.v1.leave.n001",
        "rpc.execd-config.v1.announce.n001",
        "rpc.auth.v1.announce-reboot.n001",
        "told.boot.n001.stage1.start",
        "told.boot.n001.systemd.running",
        "told.node.n001.log",
        "node.n001.heartbeat",
    }
    others = {subject.replace("n001", "n002") for subject in own}
    tricks = {subject.replace("n001", token) for subject in own for token in ("*", ">", "n002.n001", "n0011")}
    tricks |= {"node.n001.exec", "node.n001.options", "evt.node.n001.changed", "evt.identity.n001.changed"}
    tricks |= {"rpc.fleet.v1.exec", "rpc.registry.v1.apply", "rpc.registry.v1.boot", "rpc.auth.v1.decide"}
    tricks |= {"$JS.API.>", "$KV.>", "$SYS.>", "_INBOX.>", "_INBOX.registry.>", ">", "*"}
    everything = own | others | tricks | publishing().keys()
    async with nodes.peer("n001") as node:
        refused, _ = await node.refused(publish=everything)
    assert everything - refused == own


async def test_what_a_node_may_hear(nodes: Nodes) -> None:
    own = {"node.n001.options", "node.n001.exec", "_INBOX.node.n001.>", "_INBOX.node.n001.0011.*"}
    others = {subject.replace("n001", token) for subject in own for token in ("n002", "*", "n0011")}
    wide = {">", "*.>", "node.>", "node.*.>", "node.*.*", "*.*.options", "_INBOX.>", "_INBOX.node.>", "_INBOX.*.>"}
    wide |= {"node.n002.heartbeat", "node.n001.>", "evt.boot.n001.>", "$SYS.>", "$JS.>", "$KV.records.>"}
    everything = own | others | wide | subscribing().keys()
    async with nodes.peer("n001") as node:
        _, refused = await node.refused(subscribe=everything)
        assert everything - refused == own
        _, refused = await node.refused(subscribe=[f"{subject} {group}" for subject in others for group in ("q", ">")])
        assert refused == others


async def test_a_node_answers_what_it_was_asked_and_no_more(nodes: Nodes) -> None:
    async with nodes.peer("fleet") as fleet, nodes.peer("n001") as node:
        fleet.subscribe("_INBOX.fleet.0011.*")
        await fleet.settle()
        node.subscribe("node.n001.exec")
        assert await node.refused(publish=["_INBOX.fleet.0011.1"]) == ({"_INBOX.fleet.0011.1"}, set())
        fleet.publish("node.n001.exec", b"uname", reply="_INBOX.fleet.0011.1")
        assert await node.next() == ("node.n001.exec", b"uname", "_INBOX.fleet.0011.1")
        node.publish("_INBOX.fleet.0011.1", b"Linux")
        assert await node.refused(publish=["_INBOX.fleet.0011.1"]) == ({"_INBOX.fleet.0011.1"}, set())
        assert await node.refused(publish=["_INBOX.fleet.0011.2"]) == ({"_INBOX.fleet.0011.2"}, set())
        assert await fleet.next() == ("_INBOX.fleet.0011.1", b"Linux", "")


async def test_a_service_answers_a_node(nodes: Nodes) -> None:
    async with nodes.peer("registry") as registry, nodes.peer("n001") as node:
        registry.subscribe("rpc.registry.v1.boot.*")
        node.subscribe("_INBOX.node.n001.0011.*")
        await registry.settle()
        await node.settle()
        assert (await registry.refused(publish=["_INBOX.node.n001.0011.1"]))[0]
        node.publish("rpc.registry.v1.boot.n001", reply="_INBOX.node.n001.0011.1")
        await registry.next()
        registry.publish("_INBOX.node.n001.0011.1", b"boot this")
        assert await node.next() == ("_INBOX.node.n001.0011.1", b"boot this", "")


async def test_no_acknowledgement_goes_where_a_node_may_not_publish(nodes: Nodes) -> None:
    """A stream acknowledges a message, or refuses it, at whatever subject its sender names."""
    targets = ("$KV.records.head", "$KV.identity.node.n002", "node.n002.options")
    last = Stage.SYSTEMD_RUNNING
    async with nodes.bus("registry") as registry, nodes.bus("operator") as operator:
        await registry.prepare()
        async with nodes.peer("n001") as node, nodes.peer("n002") as other:
            other.subscribe("node.n002.options")
            await other.settle()
            for headers, target in itertools.product(REFUSED_HEADERS, targets):
                node.publish(f"told.boot.n001.{Stage.STAGE1_START}", EMPTY, reply=target, headers=headers)
            node.publish(f"told.boot.n001.{last}", EMPTY, reply=targets[0])
            await node.settle()
            async with asyncio.timeout(20), operator.events("evt.boot.n001.>", Anything, since=0) as events:
                async for _, subject, _ in events:
                    if subject == boot_event("n001", last):
                        break
            await other.settle()
            assert other.messages == []
        for bucket in ("KV_records", "KV_identity"):
            assert await last_sequence(registry.connection, bucket) == 0


# --- auth, and those whom nobody knows -----------------------------------------------------------------------------


async def test_auth_in_its_accounts(server: SecureServer) -> None:
    asked = {"$SYS.REQ.SERVER.NDHEAD.KICK", "$SYS.REQ.SERVER.PING.CONNZ"}
    others = {
        "$SYS.REQ.SERVER.PING.KICK.x",
        "$SYS.REQ.SERVER.NDHEAD.CONNZ",
        "$SYS.REQ.SERVER.NDHEAD.RELOAD",
        "_INBOX.a",
    }
    others |= {"$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.USER.AUTH", "$KV.records.head"}
    wide = {">", "$SYS.>", "$SYS.REQ.>", "_INBOX.>", "_INBOX.registry.>", "evt.>"}
    async with NatsPeer.open(server.port, server.system) as system:
        assert await system.refused(publish=asked | others, subscribe=wide) == (others, wide)
        assert await system.refused(subscribe=["_INBOX.auth.>", "_INBOX.auth.0011.*"]) == (set(), set())
    async with NatsPeer.open(server.port, server.callout) as callout:
        assert await callout.refused(publish=asked | others, subscribe=wide) == (asked | others, wide)
        heard = ["$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.AUTH auth", "_INBOX.auth.>"]
        assert await callout.refused(subscribe=heard) == (set(), set())


async def test_nobody_else_gets_in(server: SecureServer) -> None:
    """Whoever stands not in the configuration is asked about: here auth gives an answer that means nothing."""
    known = server.keys["registry"].public
    async with NatsPeer.open(server.port, server.callout) as callout:
        callout.subscribe("$SYS.REQ.USER.AUTH")
        await callout.settle()
        for key, named in ((Key.new(), ""), (server.issuer, ""), (Key.new(), known)):
            stranger = asyncio.create_task(_knock(server.port, key, named or key.public))
            callout.publish((await callout.next()).reply, b"come in")
            await callout.settle()
            with pytest.raises(Refused, match="Authorization Violation"):
                await stranger


async def _knock(port: int, key: Key, named: str) -> None:
    async with NatsPeer.open(port, key, nkey=named):
        pass


async def test_over_tls(tmp_path: Path) -> None:
    server = SecureServer(tmp_path / "a 0.5 path", tls=True)
    server.start()
    try:
        bus = await server.bus("operator")
        await bus.close()
        assert not bus.counts
        bare = replace(server.credentials("operator"), tls=None)
        with pytest.raises(Unavailable):
            await NatsBus.connect([server.url], name="bare", credentials=bare, timeout=2)
    finally:
        server.kill()


# --- the services themselves ---------------------------------------------------------------------------------------

DOCUMENT = {
    "networks": {"boot": {"cidr": "127.0.0.0/8", "head": "127.0.0.2", "boot": True}},
    "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
    "templates": {"compute": {"image": "compute"}},
    "nodes": {"n001": {"mac": "52:54:00:77:00:11", "address": "127.0.0.1", "template": "compute"}},
}


async def test_services_start_and_work_within_their_permissions(tmp_path: Path) -> None:
    """Registry and fleet as they are, the others by what they ask of the bus: nothing is refused to anybody."""
    server = SecureServer(tmp_path / "nats")
    server.start()
    buses: dict[str, NatsBus] = {}
    try:
        for principal in PRINCIPALS:
            buses[principal] = await server.bus(principal)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            await _work(buses, tasks, tmp_path)
            raise _Done
    except* _Done:
        assert {who: bus.counts["denied"] for who, bus in buses.items() if bus.counts["denied"]} == {}
    finally:
        for bus in buses.values():
            await bus.close()
        server.kill()


class _Done(Exception):
    pass


async def _work(buses: Mapping[str, NatsBus], tasks: asyncio.TaskGroup, folder: Path) -> None:
    operator = buses["operator"]
    await buses["registry"].prepare()
    await shoal_registry.service.start(buses["registry"], tasks, now, "0")
    for service in Service:
        await buses[service].prepare()
    request = m.ApplyRequest(document=DOCUMENT, author="ada")
    applied = await operator.call(rpc(Service.REGISTRY, "apply"), request, m.ChangeReply)
    async with AsyncExitStack() as stack:
        for reader in READERS - {"registry"}:
            view = await stack.enter_async_context(RecordsView.open(buses[reader]))
            await view.wait_for(applied.revision)
            if reader == "fleet":
                options = shoal_fleet.service.Options(folder, ("127.0.0.1", 0), timedelta(seconds=20))
                stack.callback((await shoal_fleet.service.start(buses["fleet"], view, tasks, options, now, "0")).close)
        await _a_boot(buses)


async def _a_boot(buses: Mapping[str, NatsBus]) -> None:
    operator, stage = buses["operator"], Stage.DHCP_OFFER
    event = m.BootEvent(node="n001", stage=stage, at=now(), boot=None, status=m.Status.OK)
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(_: str, event: m.BootEvent) -> None:
        heard.put_nowait(event.node)

    await buses["mcastd"].subscribe("evt.boot.>", m.BootEvent, hear)
    async with operator.events(BOOT_EVENTS, m.BootEvent, since=0) as events:
        for service in ("dhcp", "tftp", "auth"):
            await buses[service].emit(boot_event("n001", stage), event)
            await anext(events)
            assert await heard.get() == "n001"
    await buses["dhcp"].publish("evt.machine.525400770096.seen", m.MachineSeen(mac="52:54:00:77:00:96", at=now()))
    seen = m.MachinesReply(machines=[])
    while not seen.machines:
        seen = await operator.call(rpc(Service.REGISTRY, "discovered"), m.Empty(), m.MachinesReply)
    command = m.ExecRequest(nodes=["n001"], command=["true"], author="ada")
    ran = await operator.call(rpc(Service.FLEET, "exec"), command, m.ExecReply)
    assert ran.results[0].state is m.ExecState.UNREACHABLE
    async with buses["image-builder"].work("job.image.build", m.BuildImageJob) as jobs:
        job = await anext(jobs)
        await job.still_working()
        await job.done()
    await operator.latest("evt.job.>", m.JobDone)
