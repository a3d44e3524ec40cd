"""Changes against a store that is slow, forgetful or busy with others. The store is a real one in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from shoal_bus.api import Entry, Store, Write
from shoal_bus.errors import Conflict, Invalid, Unavailable
from shoal_bus.fakes import MemoryStore
from shoal_model.messages import Action, ChangeReply, Operation
from shoal_model.records import Kind
from shoal_registry import change, head
from shoal_registry.head import Head
from shoal_registry.ledger import Ledger
from shoal_registry.mirror import Batch, Mirror

NOW = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
BASE = [
    Operation(action=Action.PUT, kind=Kind.NETWORK, name="boot",
              record={"cidr": "10.77.0.0/16", "head": "10.77.0.1", "boot": True}),
    Operation(action=Action.PUT, kind=Kind.TEMPLATE, name="compute", record={}),
]  # fmt: skip


class Tampered:
    """A store in whose commits a test meddles: `commit` is what happens instead."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.commits = 0
        self.meddle: Callable[[Sequence[Write]], Awaitable[int]] | None = None

    async def commit(self, writes: Sequence[Write]) -> int:
        self.commits += 1
        if self.meddle is None:
            return await self.inner.commit(writes)
        meddle, self.meddle = self.meddle, None
        return await meddle(writes)

    async def get(self, key: str) -> Entry | None:
        return await self.inner.get(key)

    async def load(self) -> Sequence[Entry]:
        return await self.inner.load()

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int:
        return await self.inner.put(key, value, expected=expected)

    async def delete(self, key: str) -> None:
        await self.inner.delete(key)

    def watch(self, *, after: int = 0) -> AbstractAsyncContextManager[AsyncIterator[Entry | None]]:
        return self.inner.watch(after=after)


@dataclass
class Replica:
    """One registry's ledger, mirror and what came by."""

    ledger: Ledger
    mirror: Mirror
    batches: list[Batch]

    async def change(
        self, *operations: Operation, author: str = "ada", dry_run: bool = False, expected_revision: int | None = None
    ) -> ChangeReply:
        return await self.ledger.change(
            lambda snapshot, done: change.updates_of_operations(snapshot, operations, done),
            author,
            dry_run=dry_run,
            expected_revision=expected_revision,
        )


@asynccontextmanager
async def replica(store: Store) -> AsyncIterator[Replica]:
    mirror, batches = Mirror(), list[Batch]()

    async def follow() -> None:
        async for batch in mirror.follow(store):
            batches.append(batch)

    task = asyncio.create_task(follow())
    await mirror.loaded()
    yield Replica(Ledger(store, mirror, lambda: NOW), mirror, batches)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def node(number: int, **fields: object) -> Operation:
    mac, address = f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", f"10.77.{number >> 8}.{number & 255}"
    record = {"mac": mac, "address": address, **fields}
    return Operation(action=Action.PUT, kind=Kind.NODE, name=f"n{number:05}", record=record)


def gone(number: int) -> Operation:
    return Operation(action=Action.DELETE, kind=Kind.NODE, name=f"n{number:05}")


async def test_a_change_is_one_batch_with_the_head_last() -> None:
    store = MemoryStore()
    async with replica(store) as one:
        reply = await one.change(*BASE, node(300))
        assert [(item.kind, item.name, item.what) for item in reply.changes] == [
            ("network", "boot", "added"), ("template", "compute", "added"), ("node", "n00300", "added"),
        ]  # fmt: skip
        entries = await store.load()
        assert [entry.key for entry in entries][-1] == "head"
        assert reply.revision == entries[-1].revision == one.mirror.revision
        assert one.mirror.head == Head(
            revision=0, author="ada", at=NOW, change=one.batches[0].head.change, step=1, steps=1
        )


async def test_a_change_that_changes_nothing_writes_nothing_and_keeps_the_revision() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one:
        first = await one.change(*BASE, node(300))
        second = await one.change(*BASE, node(300))
        assert (second.changes, second.revision, store.commits) == ([], first.revision, 1)


async def test_a_dry_run_tells_and_writes_nothing() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one:
        reply = await one.change(*BASE, dry_run=True)
        assert (len(reply.changes), reply.revision, store.commits) == (2, 0, 0)
        with pytest.raises(Invalid, match="networks: none of them is the boot network"):
            await one.change(node(300), dry_run=True)


async def test_an_expected_revision_that_is_not_the_one_says_who_changed_last() -> None:
    async with replica(MemoryStore()) as one:
        first = await one.change(*BASE, author="grace")
        said = f"at revision {first.revision}, not 0: last changed by grace at 2026-11-20T05:00:00"
        with pytest.raises(Conflict, match=said):
            await one.change(node(300), expected_revision=0)
        assert (await one.change(node(300), expected_revision=first.revision)).changes


async def test_a_replica_that_is_behind_decides_again_on_what_is_there() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one, replica(store.inner) as other:
        await one.change(*BASE)

        async def overtaken(writes: Sequence[Write]) -> int:
            await other.change(node(300))
            return await store.inner.commit(writes)

        store.meddle = overtaken
        await one.change(node(301))
        assert set(one.mirror.snapshot.cluster.nodes) == {"n00300", "n00301"}


async def test_two_changes_that_are_valid_alone_and_wrong_together_do_not_both_succeed() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one, replica(store.inner) as other:
        await one.change(*BASE)

        async def overtaken(writes: Sequence[Write]) -> int:
            await other.change(Operation(action=Action.DELETE, kind=Kind.TEMPLATE, name="compute"))
            return await store.inner.commit(writes)

        store.meddle = overtaken
        with pytest.raises(Invalid, match="there is no template 'compute'"):
            await one.change(node(300, template="compute"))
        assert "node.n00300" not in {entry.key for entry in await store.load()}


async def test_a_head_that_moves_under_an_expected_revision_is_a_conflict() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one, replica(store.inner) as other:
        first = await one.change(*BASE)

        async def overtaken(writes: Sequence[Write]) -> int:
            await other.change(node(300), author="grace")
            return await store.inner.commit(writes)

        store.meddle = overtaken
        with pytest.raises(Conflict, match="last changed by grace"):
            await one.change(node(301), expected_revision=first.revision)


async def test_a_time_out_after_the_batch_was_stored_is_a_success() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one:
        await one.change(*BASE)

        async def stored_but_unanswered(writes: Sequence[Write]) -> int:
            await store.inner.commit(writes)
            raise Unavailable("no answer")

        store.meddle = stored_but_unanswered
        reply = await one.change(node(300))
        assert [item.name for item in reply.changes] == ["n00300"]
        assert (reply.revision, store.commits) == (one.mirror.revision, 2)


async def test_a_time_out_before_the_batch_was_stored_is_tried_again() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one:
        await one.change(*BASE)

        async def lost(writes: Sequence[Write]) -> int:
            raise Unavailable("no answer")

        store.meddle = lost
        reply = await one.change(node(300))
        assert [item.name for item in reply.changes] == ["n00300"]
        assert store.commits == 3


async def test_a_batch_that_arrives_after_its_time_out_is_not_stored_twice() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one:
        await one.change(*BASE, node(300))
        late: list[Sequence[Write]] = []

        async def delayed(writes: Sequence[Write]) -> int:
            late.append(writes)
            store.meddle = arrives_first
            raise Unavailable("no answer")

        async def arrives_first(writes: Sequence[Write]) -> int:
            await store.inner.commit(late[0])
            return await store.inner.commit(writes)

        store.meddle = delayed
        reply = await one.change(gone(300))
        assert [item.what for item in reply.changes] == ["removed"]
        assert one.mirror.snapshot.cluster.nodes == {}
        assert [batch.revision for batch in one.batches][-1] == reply.revision


async def test_a_stored_batch_is_known_as_ours_even_after_others_moved_on() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one, replica(store.inner) as other:
        await one.change(*BASE)

        async def stored_and_overtaken(writes: Sequence[Write]) -> int:
            await store.inner.commit(writes)
            await other.change(node(301))
            raise Unavailable("no answer")

        store.meddle = stored_and_overtaken
        reply = await one.change(node(300))
        assert [item.name for item in reply.changes] == ["n00300"]
        assert len(one.batches) == 3


async def test_a_large_change_goes_in_steps_under_one_id() -> None:
    async with replica(MemoryStore()) as one:
        reply = await one.change(*BASE, *(node(number) for number in range(300, 800)))
        assert len(reply.changes) == 502
        heads = [batch.head for batch in one.batches]
        assert len({item.change for item in heads}) == 1
        assert [(item.step, item.steps) for item in heads] == [(1, 3), (2, 3), (3, 3)]


async def test_a_large_change_goes_on_when_others_come_between_its_steps() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one, replica(store.inner) as other:
        await one.change(*BASE, *(node(number) for number in range(300, 800)))

        async def overtaken(writes: Sequence[Write]) -> int:
            # between the second and third step: another operator removes one that is still to be removed, too
            await other.change(gone(799))
            return await store.inner.commit(writes)

        async def first(writes: Sequence[Write]) -> int:
            store.meddle = overtaken
            return await store.inner.commit(writes)

        store.meddle = first
        reply = await one.change(*(gone(number) for number in range(300, 800)))
        assert one.mirror.snapshot.cluster.nodes == {}
        assert len(reply.changes) in (499, 500)


async def test_a_large_change_that_becomes_wrong_in_the_middle_says_what_was_done() -> None:
    store = Tampered(MemoryStore())
    async with replica(store) as one, replica(store.inner) as other:
        await one.change(*BASE)

        async def overtaken(writes: Sequence[Write]) -> int:
            await other.change(node(5000, name="n00799"))
            return await store.inner.commit(writes)

        async def first(writes: Sequence[Write]) -> int:
            store.meddle = overtaken
            return await store.inner.commit(writes)

        store.meddle = first
        with pytest.raises(Conflict, match=r"224 records were changed .* the rest was not, .*n00799 is taken by"):
            await one.change(*(node(number) for number in range(300, 800)))


async def test_a_mirror_never_shows_half_a_batch() -> None:
    store = MemoryStore()
    async with replica(store) as one:
        await one.change(*BASE)
        writes = change.writes(
            one.mirror.snapshot,
            change.updates_of_operations(one.mirror.snapshot, [node(300)]),
            one.mirror.revisions,
        )
        for write in writes:
            await store.put(write.key, write.value or b"")
        await asyncio.sleep(0.01)
        assert one.mirror.snapshot.cluster.nodes == {}
        await store.put(head.KEY, Head(revision=1, author="x", at=NOW, change="c").encode())
        await asyncio.sleep(0.01)
        assert set(one.mirror.snapshot.cluster.nodes) == {"n00300"}


async def test_a_record_this_release_does_not_understand_stops_the_registry_with_its_name() -> None:
    store = MemoryStore()
    await store.put("node.n001", b"\x81\xa3new\x01")
    await store.put(head.KEY, Head(revision=0, author="x", at=NOW, change="c").encode())
    with pytest.raises(Invalid, match=r"node\.n001 cannot be read by this release"):
        async for _ in Mirror().follow(store):
            pass


async def test_a_mirror_that_does_not_catch_up_makes_changes_unavailable() -> None:
    store = MemoryStore()
    await store.put(head.KEY, Head(revision=0, author="x", at=NOW, change="c").encode())
    mirror = Mirror()
    with pytest.raises(Unavailable, match="shows revision 0, the store is at 1"):
        await mirror.reach(1, timeout=0.01)
