"""Connections of nodes at several servers, page by page, and which of them are cut."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shoal_auth import connections
from shoal_auth import identity as identities
from shoal_auth.book import Book
from shoal_auth.connections import Connections
from shoal_auth.identity import Identity
from shoal_auth.ledger import Ledger
from shoal_auth.sweeper import Sweeper
from shoal_bus.connection import Connection
from shoal_bus.errors import BusError
from shoal_bus.fakes import MemoryStore
from shoal_identity.keys import Key
from shoal_model.messages import Party

AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
Take = Callable[[Any], Awaitable[None]]


class Servers:
    """What the system account sees of servers: users by connection, by server. Cut connections are gone."""

    def __init__(self, **users: dict[int, str]) -> None:
        self.users = users
        self.cut: list[tuple[str, int]] = []
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

    async def exchange(self, subject: str, body: bytes, _: None, *, timeout: float) -> None:
        assert timeout
        server, cid = subject.split(".")[3], json.loads(body)["cid"]
        assert subject == f"$SYS.REQ.SERVER.{server}.KICK"
        self.users[server].pop(cid, None)
        self.cut.append((server, cid))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PAGE", 2)
    monkeypatch.setattr(connections, "_FIRST", 0.05)
    monkeypatch.setattr(connections, "_QUIET", 0.05)


def party(boot: str) -> Party:
    return Party(key=Key.new().public, address="10.77.0.11", boot=boot, at=AT)


async def test_nodes_are_found_at_every_server_on_every_page() -> None:
    service = Key.new().public
    servers = Servers(
        NA={1: "n001@b1", 2: service, 3: "n002@b2", 4: "n003@b3", 5: "n001@b1"}, NB={1: "n004@b4"}, NC={7: service}
    )
    peers = await Connections(cast("Connection", servers)).peers()
    assert {(peer.server, peer.id, peer.node, peer.boot) for peer in peers} == {
        ("NA", 1, "n001", "b1"),
        ("NA", 3, "n002", "b2"),
        ("NA", 4, "n003", "b3"),
        ("NA", 5, "n001", "b1"),
        ("NB", 1, "n004", "b4"),
    }


async def test_servers_that_tell_nothing_are_told_of() -> None:
    with pytest.raises(BusError, match="no server tells"):
        await Connections(cast("Connection", Servers())).peers()


async def test_cut_is_who_speaks_for_a_node_no_more() -> None:
    servers = Servers(NA={1: "n001@b1", 2: "n001@b2", 3: "n002@b2", 4: "n003@b3", 5: "n004@b4"}, NB={1: "n001@b1"})
    store, book = MemoryStore(), Book()
    ledger = Ledger(store, book)
    sweeper = Sweeper(Connections(cast("Connection", servers)), book, store)
    book.on_change(sweeper.changed)
    running = asyncio.create_task(ledger.run())
    for node, boot in (("n001", "b1"), ("n002", "b2"), ("n003", "b3")):
        await ledger.change(node, lambda one, boot=boot: identities.bind(one, party(boot)))  # type: ignore[misc]
    await sweeper.sweep()
    assert sorted(servers.cut) == [("NA", 2), ("NA", 5)]
    await ledger.change("n001", lambda one: identities.bind(one, party("b3")))
    await ledger.change("n003", identities.revoke)
    await sweeper.sweep()
    assert sorted(servers.cut[2:]) == [("NA", 1), ("NA", 4), ("NB", 1)]
    assert servers.users == {"NA": {3: "n002@b2"}, "NB": {}}
    assert sweeper.cuts(["n001", "n003"]) == 4
    running.cancel()


async def test_a_key_that_was_replaced_within_a_boot_is_cut_once() -> None:
    servers = Servers(NA={1: "n001@b1", 2: "n002@b2"})
    store, book = MemoryStore(), Book()
    ledger = Ledger(store, book)
    sweeper = Sweeper(Connections(cast("Connection", servers)), book, store)
    book.on_change(sweeper.changed)
    running = asyncio.create_task(ledger.run())
    for node, boot in (("n001", "b1"), ("n002", "b2"), ("n001", "b1")):
        await ledger.change(node, lambda one, boot=boot: identities.bind(one, party(boot)))  # type: ignore[misc]
    await sweeper.sweep()
    servers.users["NA"][9] = "n001@b1"
    await sweeper.sweep()
    assert servers.cut == [("NA", 1)]
    running.cancel()


async def test_a_replica_that_is_behind_asks_before_it_cuts() -> None:
    servers = Servers(NA={1: "n001@b2"})
    store, book = MemoryStore(), Book()
    ledger = Ledger(store, book)
    running = asyncio.create_task(ledger.run())
    await ledger.change("n001", lambda one: identities.bind(one, party("b1")))
    await ledger.change("n001", lambda one: identities.bind(one, party("b2")))
    behind = Book()
    assert behind.of("n001") == Identity("n001")
    await Sweeper(Connections(cast("Connection", servers)), behind, store).sweep()
    assert servers.cut == []
    running.cancel()
