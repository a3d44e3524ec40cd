"""Many changes at once, by more than one replica: each is stored once, or told that it is not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lab.nats_proxy import until
from shoal_auth import identity as identities
from shoal_auth.book import Book
from shoal_auth.identity import Held, Identity
from shoal_auth.ledger import Ledger
from shoal_auth.quarantine import Quarantine
from shoal_bus.api import Entry, Write
from shoal_bus.errors import Conflict, Unavailable
from shoal_bus.fakes import MemoryStore
from shoal_identity.keys import Key
from shoal_model.messages import Party

AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
LATER = AT + timedelta(minutes=10)


class Store(MemoryStore):
    """Remembers its batches, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.away = False

    async def commit(self, writes: Sequence[Write]) -> int:
        self.batches.append(len(writes))
        if self.away:
            raise Unavailable("away")
        return await super().commit(writes)


@asynccontextmanager
async def replica(store: Store, *, hears: bool = True) -> AsyncIterator[Ledger]:
    book = Book()
    ledger = Ledger(store, book)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(ledger.run())]
        if hears:
            running.append(tasks.create_task(book.follow(store)))
            await book.loaded()
        try:
            yield ledger
        finally:
            for task in running:
                task.cancel()


def party(key: str | None = None) -> Party:
    return Party(key=key or Key.new().public, address="10.77.0.11", boot="b1", at=AT)


def arm(identity: Identity) -> Identity:
    return identities.expect(identity, LATER, "ada")


async def test_a_change_is_seen_at_once_and_by_others_soon() -> None:
    store = Store()
    async with replica(store) as one, replica(store) as other:
        before, after = await one.change("n001", arm)
        assert before == Identity("n001")
        assert replace(one.book.of("n001"), revisions=after.revisions) == after
        async with asyncio.timeout(5):
            await other.book.beyond(Identity("n001"))
        assert other.book.of("n001") == one.book.of("n001")


async def test_what_changes_nothing_writes_nothing() -> None:
    store = Store()
    async with replica(store) as ledger:
        await ledger.change("n001", lambda one: one)
    assert store.batches == []


async def test_what_waits_is_written_together() -> None:
    store = Store()
    async with replica(store) as ledger:
        await asyncio.gather(*(ledger.change(f"n{number:03}", arm) for number in range(1000)))
        assert sum(one.arm is not None for one in ledger.book) == 1000
    assert sum(store.batches) == 1000
    assert max(store.batches) == 300
    assert len(store.batches) <= 5


async def test_one_that_was_too_late_does_not_hold_up_the_others() -> None:
    store = Store()
    async with replica(store) as one, replica(store, hears=False) as deaf:
        await one.change("n001", arm)
        results = await asyncio.gather(
            deaf.commit(Identity("n001"), arm(Identity("n001"))),
            deaf.commit(Identity("n002"), arm(Identity("n002"))),
            deaf.commit(Identity("n003"), arm(Identity("n003"))),
            return_exceptions=True,
        )
    assert isinstance(results[0], Unavailable), "it does not hear what the other one stored"
    assert list(results[1:]) == [None, None]


async def test_decided_again_until_it_is_the_first() -> None:
    store = Store()
    seen: list[Identity] = []

    def bind(identity: Identity) -> Identity:
        seen.append(identity)
        return identities.bind(identity, party())

    async with replica(store) as one, replica(store) as other:
        await asyncio.gather(*(ledger.change("n001", bind) for ledger in (one, other) for _ in range(5)))
        assert one.book.of("n001").revisions.binding == 10
    assert len(seen) > 10


async def test_of_two_that_bind_one_node_the_second_hears_of_it() -> None:
    store = Store()
    async with replica(store) as one, replica(store) as other:
        fresh = Identity("n001")
        results = await asyncio.gather(
            *(ledger.commit(fresh, identities.bind(fresh, party())) for ledger in (one, one, other, other)),
            return_exceptions=True,
        )
        assert sum(result is None for result in results) == 1
        assert sum(isinstance(result, Conflict) for result in results) == 3
        assert one.book.of("n001").binding == other.book.of("n001").binding != None  # noqa: E711


async def test_an_arm_and_its_binding_are_stored_as_one() -> None:
    store = Store()
    async with replica(store) as ledger:
        await ledger.change("n001", arm)
        armed = ledger.book.of("n001")
        await ledger.change("n001", identities.disarm)
        with pytest.raises(Conflict):
            await ledger.commit(armed, identities.bind(armed, party()))
        assert ledger.book.of("n001").binding is None


async def test_a_store_that_is_away_is_told_of() -> None:
    store = Store()
    async with replica(store) as ledger:
        store.away = True
        with pytest.raises(Unavailable, match="away"):
            await ledger.change("n001", arm)
        store.away = False
        await ledger.change("n001", arm)


async def test_who_waits_no_more_is_not_written() -> None:
    store = Store()
    async with replica(store) as ledger:
        waiting = [asyncio.create_task(ledger.change(f"n{number}", arm)) for number in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert [one.node for one in ledger.book] == ["n0", "n2"]


async def test_keys_are_looked_up_as_they_are_bound() -> None:
    first, second, third = party(), party(), party()
    async with replica(Store()) as ledger:
        book = ledger.book
        for number, one in enumerate((first, second, third), 1):
            await ledger.change("n001", lambda identity, one=one: identities.bind(identity, one))  # type: ignore[misc]
            assert book.of("n001").revisions.binding == number
        assert book.with_key(third.key) == book.with_key(second.key) == book.of("n001")
        assert book.with_key(first.key) is None


async def test_what_was_heard_already_changes_nothing() -> None:
    store = Store()
    async with replica(store, hears=False) as ledger:
        await ledger.change("n001", arm)
        first = list(await store.load())
        await ledger.change("n001", identities.disarm)
        ledger.book.take(first)
        assert ledger.book.of("n001").arm is None


def test_what_cannot_be_read_changes_nothing() -> None:
    book = Book()
    for key in ("binding.n001", "other.n001", "binding.N/1", "binding"):
        book.take([Entry(key, b"\xc1", 7)])
    assert list(book) == []


async def test_attempts_are_counted_and_written_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal_auth.quarantine._ROUND", 0.01)
    now = 1000.0
    store = Store()
    key, other = party(), party()

    async with replica(store) as ledger:
        quarantine = Quarantine(ledger, lambda: now)
        running = asyncio.create_task(quarantine.run())

        async def attempts(expected: dict[str, int]) -> None:
            await until(lambda: {one.attempt.key: one.attempts for one in ledger.book.of("n001").held} == expected)

        for _ in range(3):
            quarantine.note("n001", key, "because", AT)
        await attempts({key.key: 3})
        quarantine.note("n001", key, "because", AT)
        now += 4
        quarantine.note("n001", other, "because", AT)
        await asyncio.sleep(0.05)  # five rounds
        await attempts({key.key: 3})
        now += 1
        await attempts({key.key: 4, other.key: 1})
        store.away = True
        quarantine.note("n001", key, "because", AT)
        now += 60
        await until(lambda: len(store.batches) == 3)
        store.away = False
        now += 60
        await attempts({key.key: 5, other.key: 1})
        running.cancel()


async def test_a_flood_of_keys_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal_auth.quarantine._ROUND", 0.01)
    now = 1000.0
    node, thieves = party(), [party() for _ in range(20)]
    async with replica(Store()) as ledger:
        quarantine = Quarantine(ledger, lambda: now)
        running = asyncio.create_task(quarantine.run())

        def kept() -> tuple[dict[str, int], int]:
            there = ledger.book.of("n001").quarantine or Held(entries=())
            return {one.attempt.key: one.attempts for one in there.entries}, there.more

        for one in (node, *thieves):
            quarantine.note("n001", one, "because", AT)
        first = {node.key: 1, **{one.key: 1 for one in thieves[:3]}}
        await until(lambda: kept() == (first, 17))
        for one in (*thieves[3:], node):
            quarantine.note("n001", one, "because", AT)
        now += 60
        await until(lambda: kept() == ({**first, node.key: 2}, 34))
        running.cancel()
