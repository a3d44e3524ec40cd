"""What a real nats-server lets each connection publish and subscribe to, and what it refuses."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from lab.nats_peer import NatsPeer, Refused
from lab.nats_server import NatsServer
from lab.rights import publishing, subscribing
from lab.secure import SecureServer
from shoal_bus import secrecy, server_config
from shoal_bus.connection import Credentials
from shoal_bus.errors import Unavailable
from shoal_bus.nats import NatsBus
from shoal_bus.reader import last_sequence
from shoal_identity.keys import Key
from shoal_model import permissions
from shoal_model.permissions import PRINCIPALS
from shoal_model.subjects import Stage, boot_event


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    server = SecureServer(tmp_path_factory.mktemp("secure"))
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_who_may_publish_and_subscribe_to_what(server: SecureServer, principal: str) -> None:
    publish, subscribe = publishing(server.public.secrets), subscribing()
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
        self.keys = {who: Key.new() for who in (*granted, *map(str, PRINCIPALS))}
        self.secrets = secrecy.write_secrets(self.keys)
        granted |= {str(who): permissions.of(who, self.secrets) for who in PRINCIPALS}
        users = "\n".join(server_config.user(self.keys[who].public, may) for who, may in granted.items())
        super().__init__(directory, config=f"accounts {{ CLUSTER {{ jetstream: enabled, users: [\n{users}\n] }} }}")

    def peer(self, who: str) -> AbstractAsyncContextManager[NatsPeer]:
        return NatsPeer.open(self.port, self.keys[who])

    @asynccontextmanager
    async def bus(self, who: str) -> AsyncIterator[NatsBus]:
        owned = permissions.owned(who)
        credentials = Credentials(key=self.keys[who], inbox_prefix=f"_INBOX.{who}", owns=owned)
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
    everything = own | others | tricks | publishing(nodes.secrets).keys()
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
    async with nodes.bus("registry") as registry, nodes.bus("operator") as operator, nodes.bus("auth") as auth:
        await registry.prepare()
        await auth.store("identity")
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
        for bus, bucket in ((registry, "records"), (auth, "identity")):
            assert await last_sequence(bus.connection, f"KV_{bucket}", f"$KV.{bucket}.>") == 0


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
