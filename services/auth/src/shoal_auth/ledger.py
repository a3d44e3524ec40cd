"""Changes to what is stored of nodes, decided on the book and committed by compare-and-set, many at once."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from shoal_auth import metrics
from shoal_auth.book import Book, stored, writes
from shoal_auth.identity import Identity
from shoal_bus.api import Store, Write
from shoal_bus.errors import BusError, Conflict, Unavailable

log = structlog.stdlib.get_logger("shoal.auth")

_BATCH = 300
"""Writes at once: about a hundred first boots, each a binding and an arm that is used up."""
_CATCH_UP = 2.0
_TRIES = 20

Step = Callable[[Identity], Identity]
"""How an identity is to change. May raise a BusError."""


@dataclass(frozen=True)
class _Group:
    """Writes that go together, and who waits for them."""

    writes: Sequence[Write]
    done: asyncio.Future[None]


class Ledger:
    """What waits is written together as soon as the batch before it is. `run` must run."""

    def __init__(self, store: Store, book: Book) -> None:
        self.book = book
        self._store = store
        self._waiting: deque[_Group] = deque()
        self._filled = asyncio.Event()

    async def change(self, node: str, step: Step) -> tuple[Identity, Identity]:
        """Carry out a step, again and again until nobody else was faster. What the node was before, and is after.

        Raises Unavailable if the store does not answer, Conflict if others never rest.
        """
        for _ in range(_TRIES):
            before = self.book.of(node)
            after = step(before)
            try:
                await self.commit(before, after)
            except Conflict:
                continue
            return before, after
        raise Conflict(f"others change what is known of {node} faster than we can: try again")

    async def commit(self, before: Identity, after: Identity) -> None:
        """Store `after` in the place of `before`, and return when the book shows it.

        Raises Conflict if there is something else in that place, once the book shows that; Unavailable.
        """
        group = writes(before, after)
        if not group:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Group(group, done))
        self._filled.set()
        try:
            await done
        except Conflict:
            metrics.CONFLICTS.inc()
            await self._catch_up(before)
            raise

    async def run(self) -> None:
        """Write what waits, for ever."""
        while True:
            await self._filled.wait()
            batch = self._next()
            if batch and not await self._write(batch):
                await asyncio.gather(*(self._write([group]) for group in batch))

    def _next(self) -> list[_Group]:
        """What fits into one batch; a key that stands in it twice waits for the next one."""
        batch: list[_Group] = []
        keys: set[str] = set()
        while self._waiting and len(keys) < _BATCH:
            group = self._waiting.popleft()
            if group.done.cancelled():
                continue
            of_group = {write.key for write in group.writes}
            if keys & of_group:
                self._waiting.appendleft(group)
                break
            keys |= of_group
            batch.append(group)
        if not self._waiting:
            self._filled.clear()
        return batch

    async def _write(self, batch: Sequence[_Group]) -> bool:
        """Write them all or none, and tell those who wait. False: somebody was faster with one of many."""
        together = [write for group in batch for write in group.writes]
        metrics.BATCHES.observe(len(together))
        try:
            last = await self._store.commit(together)
        except Conflict as error:
            if len(batch) > 1:
                return False
            _tell(batch, error)
        except BusError as error:
            log.warning("auth.unwritten", writes=len(together), reason=str(error))
            _tell(batch, error)
        else:
            self.book.take(stored(together, last))
            _tell(batch, None)
        return True

    async def _catch_up(self, seen: Identity) -> None:
        try:
            async with asyncio.timeout(_CATCH_UP):
                await self.book.beyond(seen)
        except TimeoutError:
            raise Unavailable(f"this replica does not hear what others store of {seen.node}: try again") from None


def _tell(batch: Sequence[_Group], error: BusError | None) -> None:
    for group in batch:
        if group.done.done():
            continue
        if error is None:
            group.done.set_result(None)
        else:
            group.done.set_exception(error)
