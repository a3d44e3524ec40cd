"""Operators who ask about nodes that were recorded a moment ago: the records of auth follow the registry's."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import cast

import pytest

from shoal_auth import recorded
from shoal_auth.book import Book
from shoal_auth.connections import Connections
from shoal_auth.handlers import Handlers
from shoal_auth.identity import Identity, hold
from shoal_auth.ledger import Ledger
from shoal_auth.outbox import Outbox
from shoal_auth.recorded import Recorded
from shoal_auth.sweeper import Sweeper
from shoal_bus.api import Store, Write
from shoal_bus.codec import pack
from shoal_bus.errors import NotFound
from shoal_bus.fakes import MemoryBus
from shoal_identity.keys import Key
from shoal_model.messages import ArmedReply, ArmRequest, DecideRequest, Party, QuarantineState
from shoal_model.records import Cluster, Kind
from shoal_model.subjects import IDENTITY_BUCKET, RECORDS_BUCKET
from shoal_service.records import RecordsView

AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


class Auth:
    """Its verbs over records that come late; `asked` is set once somebody has looked for some."""

    def __init__(self, handlers: Handlers, records: Store, asked: asyncio.Event) -> None:
        self.handlers, self.asked = handlers, asked
        self._records = records

    async def arm(self, *nodes: str) -> ArmedReply:
        return await self.handlers.arm("", ArmRequest(nodes=list(nodes), seconds=600, author="ada"))

    async def record(self, *nodes: str) -> None:
        """As the registry does: a batch, and its head."""
        batch = [
            Write(f"node.{node}", pack({"mac": f"52:54:00:77:00:{int(node[1:]):02x}", "address": "10.77.0.11"}))
            for node in nodes
        ]
        await self._records.commit([*batch, Write("head", pack({"author": "ada"}))])


@pytest.fixture
async def auth() -> AsyncIterator[Auth]:
    bus = MemoryBus()
    asked = asyncio.Event()
    store = await bus.store(IDENTITY_BUCKET)
    book = Book()
    ledger = Ledger(store, book)
    async with RecordsView.open(bus) as view:

        def cluster() -> Cluster:
            asked.set()
            return view.snapshot.cluster

        there = Recorded(cluster)
        view.on_change(there.changed)
        sweeper = Sweeper(cast("Connections", None), book, store, cluster)
        running = asyncio.create_task(ledger.run())
        yield Auth(Handlers(ledger, sweeper, Outbox(bus), there, lambda: AT), await bus.store(RECORDS_BUCKET), asked)
        running.cancel()


async def test_nodes_that_come_a_moment_later_are_armed(auth: Auth) -> None:
    await auth.record("n001")
    arming = asyncio.create_task(auth.arm("n001", "n002", "n003"))
    await auth.asked.wait()
    await auth.record("n002")
    await auth.record("n003")
    async with asyncio.timeout(10):
        reply = await arming
    assert [one.node for one in reply.nodes] == ["n001", "n002", "n003"]


async def test_an_attempt_to_be_a_node_that_comes_a_moment_later_is_decided(auth: Auth) -> None:
    attempt = Party(key=Key.new().public, address="10.77.0.11", boot="b1", at=AT)
    await auth.handlers.ledger.change("n001", lambda one: hold(one, attempt, "nobody expected n001 to boot", 1, AT))
    deciding = asyncio.create_task(auth.handlers.decide("", DecideRequest(node="n001", admit=True, author="ada")))
    await auth.asked.wait()
    await auth.record("n001")
    async with asyncio.timeout(10):
        assert (await deciding).state is QuarantineState.ADMITTED


async def test_nodes_that_do_not_come_are_named_and_none_is_armed(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_PATIENCE", 0.05)
    await auth.record("n001")
    with pytest.raises(NotFound, match=r"^there is no node n002, n003, n004, n005, n006 and 2 more$"):
        await auth.arm(*(f"n{number:03}" for number in range(1, 9)))
    with pytest.raises(NotFound, match=r"^there is no node n002$"):
        await auth.arm("n001", "n002")
    assert auth.handlers.ledger.book.of("n001") == Identity("n001")


async def test_two_who_wait_for_different_nodes_are_both_served(auth: Auth) -> None:
    first = asyncio.create_task(auth.arm("n001"))
    second = asyncio.create_task(auth.arm("n002"))
    await auth.asked.wait()
    await auth.record("n002")
    async with asyncio.timeout(10):
        await second
        await auth.record("n001")
        await first


def test_a_change_of_something_else_wakes_nobody() -> None:
    there = Recorded(lambda: pytest.fail("nobody asked"))
    there.changed(Kind.IMAGE, "compute")
    there.changed(Kind.NODE, "n001")
