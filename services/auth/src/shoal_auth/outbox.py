"""Events on their way to the bus: no answer waits for them."""

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog

from shoal_auth import metrics
from shoal_auth.notices import Notice
from shoal_bus.api import Bus
from shoal_bus.errors import BusError, Unavailable

log = structlog.stdlib.get_logger("shoal.auth")

_CAPACITY = 30_000
_AT_ONCE = 64
_PAUSE = 1.0


class Outbox:
    """A bounded queue with one sender. When it is full the oldest event is lost, and counted."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[Notice] = deque()
        self._filled = asyncio.Event()

    def put(self, notices: Iterable[Notice]) -> None:
        """Queue events without waiting."""
        for notice in notices:
            if len(self._waiting) >= _CAPACITY:
                self._waiting.popleft()
                metrics.DROPPED.inc()
            self._waiting.append(notice)
        self._filled.set()

    async def run(self) -> None:
        """Send what is queued, for ever. What the bus cannot take now stays queued and is tried again."""
        while True:
            await self._filled.wait()
            if not await self._flush():
                await asyncio.sleep(_PAUSE)

    async def close(self, seconds: float) -> None:
        """Send what is queued, for so long at most; what is left then is lost."""
        try:
            async with asyncio.timeout(seconds):
                await self._flush()
        except TimeoutError:
            log.warning("auth.notices_lost", count=len(self._waiting))

    async def _flush(self) -> bool:
        """Whether all is sent."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            results = await asyncio.gather(*map(self._send, batch))
            unsent = [notice for notice, sent in zip(batch, results, strict=True) if not sent]
            if unsent:
                self._waiting.extendleft(reversed(unsent))
                log.warning("auth.bus_unavailable", waiting=len(self._waiting))
                return False
        self._filled.clear()
        return True

    async def _send(self, notice: Notice) -> bool:
        """Whether that is settled."""
        try:
            await self._bus.emit(notice.subject, notice.message, id=notice.id)
        except Unavailable:
            return False
        except BusError as error:
            metrics.DROPPED.inc()
            log.error("auth.notice_refused", subject=notice.subject, reason=str(error))
        return True
