"""Attempts on their way into quarantine: nodes try again every few seconds, and that is not written each time."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from shoal_auth.identity import HELD, Identity, hold, miss
from shoal_auth.ledger import Ledger
from shoal_bus.errors import BusError
from shoal_model.messages import Party

log = structlog.stdlib.get_logger("shoal.auth")

_ROUND = 0.5
_NEW, _AGAIN = 5.0, 60.0
"""Seconds between two writes about a node: if there is a new key among its attempts, and if there is none."""
_AT_ONCE = 200
_NODES = 20_000


@dataclass
class _Tries:
    """What was tried with one key since it was last written."""

    party: Party
    reason: str
    last: datetime
    count: int = 1


class Quarantine:
    """Counts attempts, and writes them now and then. `clock` gives seconds that never go back. `run` must run."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._tries: dict[str, dict[str, _Tries]] = {}
        self._missed: Counter[str] = Counter()
        self._written: dict[str, float] = {}
        self._filled = asyncio.Event()

    def note(self, node: str, party: Party, reason: str, at: datetime) -> None:
        """An attempt was not let in."""
        if node not in self._tries and len(self._tries) >= _NODES:
            return
        of_node, identity = self._tries.setdefault(node, {}), self._ledger.book.of(node)
        tries = of_node.get(party.key)
        if tries is not None:
            tries.count, tries.last, tries.reason = tries.count + 1, at, reason
        elif identity.waits(party.key) or sum(not identity.waits(key) for key in of_node) < HELD:
            of_node[party.key] = _Tries(party, reason, at)
        else:
            self._missed[node] += 1
        self._filled.set()

    async def run(self) -> None:
        """Write, for ever. What cannot be written now is written later."""
        while True:
            await self._filled.wait()
            now = self._clock()
            self._written = {node: at for node, at in self._written.items() if now - at < _AGAIN}
            due = [node for node in self._tries if self._due(node, now)][:_AT_ONCE]
            await asyncio.gather(*map(self._write, due))
            if not self._tries:
                self._filled.clear()
            await asyncio.sleep(_ROUND)

    def _due(self, node: str, now: float) -> bool:
        """The longer nothing was written, the sooner; a new key is no reason to write at once each time."""
        written = self._written.get(node)
        if written is None:
            return True
        identity = self._ledger.book.of(node)
        new = identity.room and any(identity.attempt_of(key) is None for key in self._tries[node])
        return now - written >= (_NEW if new else _AGAIN)

    async def _write(self, node: str) -> None:
        tries, missed = self._tries.pop(node), self._missed.pop(node, 0)

        def step(identity: Identity) -> Identity:
            for one in tries.values():
                identity = hold(identity, one.party, one.reason, one.count, one.last)
            return miss(identity, missed)

        self._written[node] = self._clock()
        try:
            await self._ledger.change(node, step)
        except BusError as error:
            log.warning("auth.quarantine.unwritten", node=node, reason=str(error))
            self._tries.setdefault(node, tries)
            self._missed[node] += missed
