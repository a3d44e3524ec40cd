"""Events on their way to the bus: packets never wait for it."""

import asyncio
from collections import deque

from structlog.stdlib import BoundLogger

from shoal_bus.api import Bus
from shoal_bus.errors import BusError, Unavailable
from shoal_dhcp import metrics
from shoal_dhcp.events import Notice

CAPACITY = 10_000
_BATCH = 64
_PAUSE = 1.0


class BusOutbox:
    """A bounded queue with one sender. When it is full the oldest notice is lost, and counted."""

    def __init__(self, bus: Bus, log: BoundLogger, capacity: int = CAPACITY) -> None:
        self._bus = bus
        self._log = log
        self._capacity = capacity
        self._waiting: deque[Notice] = deque()
        self._filled = asyncio.Event()

    def put(self, notice: Notice) -> None:
        """Queue a notice without waiting."""
        if len(self._waiting) >= self._capacity:
            self._waiting.popleft()
            metrics.NOTICES_DROPPED.inc()
        self._waiting.append(notice)
        self._filled.set()

    async def run(self) -> None:
        """Send what is queued, for ever. What the bus cannot take now stays queued and is tried again."""
        while True:
            await self._filled.wait()
            if not await self.flush():
                await asyncio.sleep(_PAUSE)

    async def flush(self) -> bool:
        """Send all that is queued; False if the bus is unavailable, with the rest still queued."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                unsent = [notice for notice in await asyncio.gather(*map(self._send, batch)) if notice is not None]
            except asyncio.CancelledError:
                self._waiting.extendleft(reversed(batch))
                raise
            self._waiting.extendleft(reversed(unsent))
            if unsent:
                self._log.warning("dhcp.bus_unavailable", waiting=len(self._waiting))
                return False
        self._filled.clear()
        return True

    async def close(self, seconds: float) -> None:
        """Send what is queued, for so long at most; what is left then is lost, and counted."""
        try:
            async with asyncio.timeout(seconds):
                await self.flush()
        except TimeoutError:
            pass
        if self._waiting:
            metrics.NOTICES_DROPPED.inc(len(self._waiting))
            self._log.warning("dhcp.notices_lost", count=len(self._waiting))

    async def _send(self, notice: Notice) -> Notice | None:
        """The notice itself if it has to be tried again."""
        try:
            if notice.id is None:
                await self._bus.publish(notice.subject, notice.message)
            else:
                await self._bus.emit(notice.subject, notice.message, id=notice.id)
        except Unavailable:
            return notice
        except BusError as error:
            self._log.error("dhcp.notice_refused", subject=notice.subject, reason=str(error))
            metrics.NOTICES_DROPPED.inc()
            return None
        metrics.NOTICES.inc()
        return None
