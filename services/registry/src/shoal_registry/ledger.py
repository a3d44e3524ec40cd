"""Changes, one at a time, against a head that other replicas move too. The only place that writes records."""

import asyncio
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from shoal_bus.api import Store, Write
from shoal_bus.errors import BusError, Conflict, Unavailable
from shoal_model.messages import ChangeReply, RecordChange
from shoal_model.resolve import Snapshot
from shoal_registry import change, head
from shoal_registry.head import Head
from shoal_registry.inventory import Key, Updates, get
from shoal_registry.mirror import Mirror

Decide = Callable[[Snapshot, Collection[Key]], Updates]
"""What is wanted, given the records as they are and those this change has already brought about. Raises Invalid."""

_LOG = structlog.stdlib.get_logger("shoal.registry")
_ATTEMPTS = 200
_LEARN_SECONDS = 15.0


@dataclass(frozen=True)
class _Plan:
    changes: list[RecordChange]
    steps: list[Updates]


class Ledger:
    """Decides on the mirror, writes with a compare-and-set on `head`, and decides again when the head has moved."""

    def __init__(self, store: Store, mirror: Mirror, now: Callable[[], datetime]) -> None:
        self._store = store
        self._mirror = mirror
        self._now = now
        self._turn = asyncio.Lock()

    async def current(self) -> Mirror:
        """The mirror, once it shows what the store's leader has. Raises Unavailable if it does not come to."""
        entry = await self._store.get(head.KEY)
        if entry is not None and entry.revision > self._mirror.revision:
            await self._mirror.reach(entry.revision)
        return self._mirror

    async def change(
        self, decide: Decide, author: str, *, dry_run: bool = False, expected_revision: int | None = None
    ) -> ChangeReply:
        """Carry out a change, or tell what it would do. One that changes nothing writes nothing.

        Raises Invalid with all that is wrong; Conflict if the records are not at `expected_revision`, or if others
        change them faster than this change can be decided; Unavailable if the store does not answer.
        """
        async with self._turn:
            mirror = await self.current()
            if expected_revision is not None and expected_revision != mirror.revision:
                raise _moved_on(mirror, expected_revision)
            plan = _plan(mirror.snapshot, decide, ())
            if dry_run or not plan.steps:
                return ChangeReply(changes=plan.changes, revision=mirror.revision)
            return await self._carry_out(decide, plan, author, expected_revision)

    async def _carry_out(self, decide: Decide, plan: _Plan, author: str, expected_revision: int | None) -> ChangeReply:
        identity = uuid.uuid4().hex
        changes: list[RecordChange] = []
        done: set[Key] = set()
        number = 0
        for _ in range(_ATTEMPTS + len(plan.steps)):
            step = plan.steps[0]
            now = Head(
                revision=self._mirror.revision,
                author=author,
                at=self._now(),
                change=identity,
                step=number + 1,
                steps=number + len(plan.steps),
            )
            if await self._write(step, now):
                number += 1
                done.update(step)
                changes += [item for item in plan.changes if (item.kind, item.name) in step]
                plan = replace(plan, steps=plan.steps[1:])
            else:
                if expected_revision is not None and not done:
                    raise _moved_on(self._mirror, expected_revision)
                for left in plan.steps:
                    done |= _standing(self._mirror.snapshot, left)
                plan = self._plan_the_rest(decide, done, identity)
            if not plan.steps:
                _LOG.info(
                    "registry.change",
                    author=author,
                    change=identity,
                    records=len(changes),
                    revision=self._mirror.revision,
                )
                return ChangeReply(changes=changes, revision=self._mirror.revision)
        raise Conflict("others change the records faster than this change can be decided: try again")

    def _plan_the_rest(self, decide: Decide, done: Collection[Key], identity: str) -> _Plan:
        try:
            return _plan(self._mirror.snapshot, decide, done)
        except BusError as error:
            if not done:
                raise
            part = f"{len(done)} records were changed (change {identity}), the rest was not"
            raise Conflict(f"{part}, because the records changed meanwhile: {error}") from error

    async def _write(self, step: Updates, now: Head) -> bool:
        """Commit one batch; False if the head has moved. Either way the mirror shows what is there when this returns.

        A time-out leaves open whether it happened: the head tells, or the records where others moved on from it. If the
        old head still stands, the repeat competes with what may yet arrive, and one of both wins.
        """
        revisions = self._mirror.revisions
        writes = change.writes(self._mirror.snapshot, step, revisions)
        writes.append(Write(head.KEY, now.encode(), revisions.get(head.KEY, 0)))
        unsure = False
        try:
            await self._mirror.reach(await self._store.commit(writes))
            return True
        except Conflict:
            await self._learn(now, None)
        except Unavailable as error:
            unsure = True
            await self._learn(now, error)
        if self._mirror.head is not None and self._mirror.head.is_of(now):
            return True
        return unsure and _standing(self._mirror.snapshot, step) == set(step)

    async def _learn(self, now: Head, cause: Unavailable | None) -> None:
        """Bring the mirror to where the store is, for as long as a restart of the store may take."""
        try:
            async with asyncio.timeout(_LEARN_SECONDS):
                while True:
                    try:
                        await self.current()
                        return
                    except Unavailable as error:
                        cause = error
                        await asyncio.sleep(0.2)
        except TimeoutError:
            advice = "look at `shoal export`, or make the change again: what is so already is not written twice"
            raise Unavailable(f"whether change {now.change} was stored is unknown ({cause}); {advice}") from cause


def _standing(snapshot: Snapshot, step: Updates) -> set[Key]:
    """The records of a step that are as it wants them."""
    return {key for key, record in step.items() if get(snapshot, key) == record}


def _plan(snapshot: Snapshot, decide: Decide, done: Collection[Key]) -> _Plan:
    updates = change.settle(snapshot, decide(snapshot, done))
    change.check(snapshot, updates)
    return _Plan(change.differences(snapshot, updates), change.steps(snapshot, updates))


def _moved_on(mirror: Mirror, expected: int) -> Conflict:
    now = f"the records are at revision {mirror.revision}, not {expected}: {head.last_changed(mirror.head)}"
    return Conflict(f"{now}; look at what changed and decide again")
