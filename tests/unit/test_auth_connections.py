"""Connections of nodes at several servers, page by page, and which of them are cut."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from prometheus_client import REGISTRY

from lab.nats_proxy import until
from shoal_auth import connections, sweeper
from shoal_auth import identity as identities
from shoal_auth.book import Book
from shoal_auth.connections import Connections, Peer, user_name
from shoal_auth.excess import excess
from shoal_auth.identity import Identity
from shoal_auth.ledger import Ledger
from shoal_auth.sweeper import Sweeper
from shoal_bus.connection import Connection
from shoal_bus.errors import BusError
from shoal_bus.fakes import MemoryStore
from shoal_identity.keys import Key
from shoal_model.messages import Party
from shoal_model.records import Cluster, Node

AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
Take = Callable[[Any], Awaitable[None]]


class Servers:
    """What the system account sees of servers: users by connection, by server. Cut connections are gone."""

    def __init__(self, **users: dict[int, str]) -> None:
        self.users = users
        self.cut: list[tuple[str, int]] = []
        self.refusing = False
        self.answer: bytes | None = None
        self._take: Take | None = None

    async def link(self, _: float) -> "Servers":
        return self

    def inbox(self) -> str:
        return "_INBOX.auth.1"

    async def listen(self, _: str, take: Take) -> "Servers":
        self._take = take
        return self

    async def stop(self) -> None:
        self._take = None

    async def publish(self, _: str, body: bytes, *, reply: str) -> None:
        assert reply == "_INBOX.auth.1"
        assert self._take is not None
        wanted = json.loads(body)
        assert (wanted["acc"], wanted["auth"]) == ("CLUSTER", True)
        begin, end = wanted["offset"], wanted["offset"] + wanted["limit"]
        for server, users in self.users.items():
            listed = [
                {"cid": cid, "authorized_user": user, "other": 7} for cid, user in sorted(users.items())[begin:end]
            ]
            told = {"server": {"id": server}, "data": {"total": len(users), "connections": listed}}
            await self._take(SimpleNamespace(data=json.dumps(told).encode()))

    async def exchange(self, subject: str, body: bytes, _: None, *, timeout: float) -> SimpleNamespace:
        assert timeout
        server, cid = subject.split(".")[3], json.loads(body)["cid"]
        assert subject == f"$SYS.REQ.SERVER.{server}.KICK"
        told: dict[str, Any] = {"server": {"id": server}}
        if self.refusing:
            told["error"] = {"code": 500, "description": "not today"}
        elif self.users[server].pop(cid, None) is None:
            told["error"] = {"code": 500, "description": "no such client or leafnode id"}
        else:
            self.cut.append((server, cid))
        return SimpleNamespace(data=json.dumps(told).encode() if self.answer is None else self.answer)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PAGE", 2)
    monkeypatch.setattr(connections, "_FIRST", 0.05)
    monkeypatch.setattr(connections, "_QUIET", 0.05)


MAC, OTHER_MAC = "52:54:00:77:00:11", "52:54:00:77:00:99"


def cluster(**macs: str) -> Cluster:
    """Four nodes, which have these MACs, or else the same one."""
    nodes = {name: Node(mac=macs.get(name, MAC), address="10.77.0.11") for name in ("n001", "n002", "n003", "n004")}
    return Cluster(nodes=nodes)


def party(boot: str, key: str | None = None) -> Party:
    return Party(key=key or Key.new().public, address="10.77.0.11", boot=boot, mac=MAC, at=AT)


P1, P2, P3 = party("b1"), party("b2"), party("b3")


@dataclass
class Auth:
    """A book with its store, a sweeper, and the servers that it sweeps."""

    servers: Servers
    store: MemoryStore
    ledger: Ledger
    sweeper: Sweeper

    async def bind(self, node: str, who: Party) -> None:
        await self.ledger.change(node, lambda one: identities.bind(one, who))


@asynccontextmanager
async def auth(**users: dict[int, str]) -> AsyncIterator[Auth]:
    servers, store, book = Servers(**users), MemoryStore(), Book()
    ledger = Ledger(store, book)
    sweeper = Sweeper(Connections(cast("Connection", servers)), book, store, cluster)
    book.on_change(sweeper.changed)
    running = asyncio.create_task(ledger.run())
    try:
        yield Auth(servers, store, ledger, sweeper)
    finally:
        running.cancel()


def test_a_connection_is_called_by_node_boot_and_key() -> None:
    assert user_name("n001", P1) == f"n001@b1@{P1.key[1:13]}"
    assert user_name("n001", P1.model_copy(update={"boot": None})) == f"n001@@{P1.key[1:13]}"


async def test_nodes_are_found_at_every_server_on_every_page() -> None:
    service = Key.new().public
    servers = Servers(
        NA={1: "n001@b1@K1", 2: service, 3: "n002@b2@K2", 4: "n003@b3@K3", 5: "n001@b1@K1"},
        NB={1: "n004@b4@K4"},
        NC={7: service},
    )
    peers = await Connections(cast("Connection", servers)).peers()
    assert {(peer.server, peer.id, peer.node, peer.user) for peer in peers} == {
        ("NA", 1, "n001", "n001@b1@K1"),
        ("NA", 3, "n002", "n002@b2@K2"),
        ("NA", 4, "n003", "n003@b3@K3"),
        ("NA", 5, "n001", "n001@b1@K1"),
        ("NB", 1, "n004", "n004@b4@K4"),
    }


async def test_servers_that_tell_nothing_are_told_of() -> None:
    with pytest.raises(BusError, match="no server tells"):
        await Connections(cast("Connection", Servers())).peers()


async def test_cut_is_who_speaks_for_a_node_no_more() -> None:
    n001, n002, n003 = user_name("n001", P1), user_name("n002", P2), user_name("n003", P3)
    async with auth(
        NA={1: n001, 2: user_name("n001", P2), 3: n002, 4: n003, 5: "n004@b4@K4", 6: "n001@b1"}, NB={1: n001}
    ) as one:
        for node, who in (("n001", P1), ("n002", P2), ("n003", P3)):
            await one.bind(node, who)
        await one.sweeper.sweep()
        assert sorted(one.servers.cut) == [("NA", 2), ("NA", 5), ("NA", 6)]
        await one.bind("n001", P3)
        await one.ledger.change("n003", identities.revoke)
        await one.sweeper.sweep()
        assert sorted(one.servers.cut[3:]) == [("NA", 1), ("NA", 4), ("NB", 1)]
        assert one.servers.users == {"NA": {3: n002}, "NB": {}}
        assert one.sweeper.cuts(["n001", "n003"]) == 5


async def test_a_key_that_was_replaced_within_a_boot_is_cut_by_an_auth_that_did_not_see_it() -> None:
    thief, node = party("b1"), party("b1")
    async with auth(NA={1: user_name("n001", thief), 2: user_name("n002", P2), 3: user_name("n001", node)}) as one:
        for name, who in (("n001", thief), ("n002", P2), ("n001", node)):
            await one.bind(name, who)
        fresh = Sweeper(Connections(cast("Connection", one.servers)), one.ledger.book, one.store, cluster)
        await fresh.sweep()
        await fresh.sweep()
        assert one.servers.cut == [("NA", 1)]


async def test_a_replica_that_is_behind_asks_before_it_cuts() -> None:
    async with auth(NA={1: user_name("n001", P2)}) as one:
        await one.bind("n001", P1)
        await one.bind("n001", P2)
        behind = Book()
        assert behind.of("n001") == Identity("n001")
        await Sweeper(Connections(cast("Connection", one.servers)), behind, one.store, cluster).sweep()
        assert one.servers.cut == []


async def test_a_machine_that_was_replaced_is_cut_and_one_that_is_to_move_is_not() -> None:
    async with auth(NA={1: user_name("n001", P1), 2: user_name("n002", P2)}) as one:
        for node, who in (("n001", P1), ("n002", P2)):
            await one.bind(node, who)
        await one.sweeper.sweep()
        assert one.servers.cut == []
        moved = {"n001": cluster(n001=OTHER_MAC).nodes["n001"], "n002": Node(mac=MAC, address="10.77.0.99")}
        fresh = Sweeper(
            Connections(cast("Connection", one.servers)), one.ledger.book, one.store, lambda: Cluster(nodes=moved)
        )
        await fresh.sweep()
        assert one.servers.cut == [("NA", 1)]


def peer(node: str, number: int, *, second: int = 0, subscriptions: int = 5) -> Peer:
    return Peer("NA", number, f"{node}@b1@K1", AT + timedelta(seconds=second), subscriptions)


def test_more_connections_than_a_node_needs_are_cut_the_latest_of_each_node() -> None:
    of_one = [peer("n001", number, second=10 - number) for number in range(10)]
    of_other = [peer("n002", number) for number in range(4)]
    assert excess([*of_one, *of_other]) == [of_one[number] for number in (5, 4, 3, 2, 1, 0)]


def test_a_connection_with_more_subscriptions_than_a_node_needs_is_cut_and_takes_no_others_place() -> None:
    found = [peer("n001", number, subscriptions=201 if number == 0 else 200) for number in range(5)]
    assert excess(found) == found[:1]


async def test_what_is_too_much_is_told_of_once_a_node_and_is_no_revocation() -> None:
    async with auth(NA={number: user_name("n001", P1) for number in range(1, 8)}) as one:
        await one.bind("n001", P1)
        before = sample("excess")
        with structlog.testing.capture_logs() as said:
            await one.sweeper.sweep()
        assert sorted(one.servers.cut) == [("NA", 5), ("NA", 6), ("NA", 7)]
        assert one.sweeper.cuts(["n001"]) == 0
        assert sample("excess") == before + 3
        assert [(entry["event"], entry["connections"]) for entry in said] == [("auth.excess", 3)]


async def test_what_a_server_does_not_cut_is_not_counted_told_of_and_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeper, "_PAUSE", 0.01)
    monkeypatch.setattr(sweeper, "_PATIENCE", 0.01)
    async with auth(NA={1: user_name("n001", P1)}) as one:
        one.servers.refusing = True
        before = sample("not_cut")
        with structlog.testing.capture_logs() as said:
            running = asyncio.create_task(one.sweeper.run())
            await until(lambda: sample("not_cut") >= before + 2)
            assert one.sweeper.cuts(["n001"]) == 0
            one.servers.refusing = False
            await until(lambda: one.servers.cut == [("NA", 1)])
            running.cancel()
        assert one.sweeper.cuts(["n001"]) == 1
    events = [(entry["event"], entry.get("reason")) for entry in said]
    assert ("auth.not_cut", "not today") in events
    assert events.count(("auth.cut", None)) == 1


async def test_a_connection_that_is_gone_by_then_was_not_cut() -> None:
    servers = Servers(NA={})
    assert await Connections(cast("Connection", servers)).cut(Peer("NA", 7, "n001@b1@K1")) is False


@pytest.mark.parametrize("answer", [b"", b"rubbish", b"[]", b'{"error": "so"}'])
async def test_an_answer_that_cannot_be_read_is_an_error(answer: bytes) -> None:
    servers = Servers(NA={7: "n001@b1@K1"})
    servers.answer = answer
    with pytest.raises(BusError, match="cannot be read"):
        await Connections(cast("Connection", servers)).cut(Peer("NA", 7, "n001@b1@K1"))


def sample(what: str) -> float:
    return REGISTRY.get_sample_value(f"shoal_auth_connections_{what}_total") or 0.0
