"""Buckets: what `shoal_bus.api.Store` promises, in memory and over JetStream."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shoal_bus.api import Bus, Entry, Store, Write
from shoal_bus.errors import BusError, Conflict, Invalid

Clients = Callable[[], Awaitable[Bus]]


@pytest.fixture
async def store(clients: Clients) -> Store:
    return await (await clients()).store("records")


async def test_a_key_is_there_once_it_was_put(store: Store) -> None:
    assert await store.get("node.n1") is None
    revision = await store.put("node.n1", b"one")
    assert await store.get("node.n1") == Entry("node.n1", b"one", revision)
    second = await store.put("node.n1", b"two", expected=revision)
    assert second > revision
    assert await store.get("node.n1") == Entry("node.n1", b"two", second)


async def test_any_bytes_are_kept(store: Store) -> None:
    for value in (b"", bytes(range(256)), b"x" * 200_000):
        revision = await store.put("node.n1", value)
        assert await store.get("node.n1") == Entry("node.n1", value, revision)
        assert (await store.load())[-1].value == value


@pytest.mark.parametrize("expected", [0, 99])
async def test_a_put_with_a_wrong_expectation_changes_nothing(store: Store, expected: int) -> None:
    await store.put("node.n1", b"one")
    with pytest.raises(Conflict):
        await store.put("node.n1", b"two", expected=expected)
    entry = await store.get("node.n1")
    assert entry is not None
    assert entry.value == b"one"


async def test_a_deleted_key_leaves_a_tombstone_that_can_be_claimed_again(store: Store) -> None:
    first = await store.put("claim.mac.525400770011", b"n1", expected=0)
    await store.delete("claim.mac.525400770011")
    assert await store.get("claim.mac.525400770011") is None
    tombstone = (await store.load())[-1]
    assert tombstone == Entry("claim.mac.525400770011", None, tombstone.revision)
    assert tombstone.revision > first
    with pytest.raises(Conflict):
        await store.put("claim.mac.525400770011", b"n2", expected=0)
    await store.commit([Write("claim.mac.525400770011", b"n2", tombstone.revision)])
    entry = await store.get("claim.mac.525400770011")
    assert entry is not None
    assert entry.value == b"n2"


async def test_deleting_what_is_not_there_does_nothing(store: Store) -> None:
    await store.put("node.n1", b"one")
    await store.delete("node.n2")
    await store.delete("node.n1")
    await store.delete("node.n1")
    assert [(entry.key, entry.value) for entry in await store.load()] == [("node.n1", None)]


async def test_a_batch_is_written_whole(store: Store) -> None:
    await store.put("node.old", b"x")
    last = await store.commit(
        [
            Write("node.n1", b"record", 0),
            Write("claim.mac.1", b"n1", 0),
            Write("node.old", None),
            Write("head", b"h", 0),
        ]
    )
    entries = {entry.key: entry for entry in await store.load()}
    assert {key: entry.value for key, entry in entries.items()} == {
        "node.n1": b"record",
        "claim.mac.1": b"n1",
        "node.old": None,
        "head": b"h",
    }
    assert entries["head"].revision == last == max(entry.revision for entry in entries.values())


async def test_a_batch_that_conflicts_writes_nothing(store: Store) -> None:
    await store.commit([Write("node.n1", b"one", 0), Write("claim.mac.1", b"n1", 0)])
    before = await store.load()
    with pytest.raises(Conflict):
        await store.commit([Write("node.n2", b"two", 0), Write("claim.mac.1", b"n2", 0), Write("claim.name.n2", b"n2")])
    assert await store.load() == before


async def test_of_many_claims_one_wins(clients: Clients) -> None:
    stores = [await (await clients()).store("records") for _ in range(4)]

    async def claim(number: int) -> bool:
        writes = [Write(f"node.n{number}", b"x", 0), Write(f"claim.name.n{number}", b"x", 0)]
        try:
            await stores[number % 4].commit([*writes, Write("claim.mac.dead", f"n{number}".encode(), 0)])
        except Conflict:
            return False
        return True

    won = [number for number, result in enumerate(await asyncio.gather(*map(claim, range(200)))) if result]
    assert len(won) == 1
    keys = {entry.key for entry in await stores[0].load()}
    assert keys == {f"node.n{won[0]}", f"claim.name.n{won[0]}", "claim.mac.dead"}


async def test_the_largest_batch_passes_and_a_larger_one_is_refused(store: Store) -> None:
    await store.commit([Write(f"node.n{n}", b"x" * 500) for n in range(900)])
    assert len(await store.load()) == 900
    with pytest.raises(Invalid, match="1 to 900 writes, not 901"):
        await store.commit([Write(f"node.m{n}", b"x") for n in range(901)])
    with pytest.raises(Invalid, match="not 0"):
        await store.commit([])


async def test_a_key_stands_once_in_a_batch(store: Store) -> None:
    with pytest.raises(Invalid, match=r"'node\.n1' stands twice"):
        await store.commit([Write("node.n1", b"x"), Write("node.n1", b"y")])


@pytest.mark.parametrize(
    "key", ["", ".", "a.", ".a", "a..b", "a b", "a*", "a.>", "52:54", "ä", "a\r\nPUB x", "x" * 513]
)
async def test_a_key_that_cannot_stand_in_a_subject_is_refused(store: Store, key: str) -> None:
    with pytest.raises(Invalid, match="cannot be a key"):
        await store.put(key, b"x")
    with pytest.raises(Invalid, match="cannot be a key"):
        await store.get(key)


@pytest.mark.parametrize("bucket", ["", "a.b", "a b", "a>", "x" * 65])
async def test_a_bucket_has_a_plain_name(clients: Clients, bucket: str) -> None:
    bus = await clients()
    with pytest.raises(BusError, match="cannot name a bucket"):
        await bus.store(bucket)


async def test_a_watch_gives_what_is_there_then_what_comes(store: Store) -> None:
    await store.put("node.n1", b"one")
    await store.put("node.n1", b"two")
    await store.put("node.n2", b"x")
    await store.delete("node.n2")
    async with store.watch() as entries, asyncio.timeout(5):
        there = []
        while (entry := await anext(entries)) is not None:
            there.append((entry.key, entry.value))
        assert there == [("node.n1", b"two"), ("node.n2", None)]
        revision = await store.put("node.n3", b"three")
        assert await anext(entries) == Entry("node.n3", b"three", revision)
        await store.commit([Write("node.n4", b"four"), Write("node.n3", None)])
        came = [await anext(entries) for _ in range(2)]
        assert [entry and (entry.key, entry.value) for entry in came] == [("node.n4", b"four"), ("node.n3", None)]


async def test_a_watch_of_an_empty_bucket_begins_with_none(store: Store) -> None:
    async with store.watch() as entries, asyncio.timeout(5):
        assert await anext(entries) is None


async def test_a_watch_goes_on_from_a_revision(store: Store) -> None:
    for number in range(5):
        last = await store.put(f"node.n{number}", b"x")
    async with store.watch(after=last - 2) as entries, asyncio.timeout(5):
        keys = []
        while (entry := await anext(entries)) is not None:
            keys.append(entry.key)
        assert keys == ["node.n3", "node.n4"]
    async with store.watch(after=last) as entries, asyncio.timeout(5):
        assert await anext(entries) is None
        await store.put("node.n9", b"x")
        entry = await anext(entries)
        assert entry is not None
        assert entry.key == "node.n9"


async def test_a_slow_watcher_loses_nothing(store: Store) -> None:
    """Guard P5: nats-py's own watcher drops what its reader does not take in time, and never tells."""
    seen: list[str] = []
    async with store.watch() as entries, asyncio.timeout(30):
        assert await anext(entries) is None
        for batch in range(6):
            await store.commit([Write(f"node.b{batch}-{n}", b"x" * 1000) for n in range(900)])
        while len(seen) < 5400:
            entry = await anext(entries)
            assert entry is not None
            seen.append(entry.key)
            if len(seen) % 500 == 0:
                await asyncio.sleep(0.02)
    assert len(set(seen)) == 5400


async def test_buckets_are_apart(clients: Clients) -> None:
    bus = await clients()
    records, state = await bus.store("records"), await bus.store("state")
    await records.put("node.n1", b"x")
    assert await state.get("node.n1") is None
    assert await state.load() == []


async def test_two_clients_see_one_bucket(clients: Clients) -> None:
    first, second = [await (await clients()).store("records") for _ in range(2)]
    revision = await first.put("node.n1", b"x")
    assert await second.get("node.n1") == Entry("node.n1", b"x", revision)
