"""Events on their way to the bus, behind a bounded queue: no transfer waits for them."""

import asyncio
from typing import Protocol

import structlog
from prometheus_client import Counter

from shoal_bus.errors import BusError
from shoal_model.messages import BootEvent
from shoal_model.subjects import boot_event

_QUEUE = 4096
_PAUSE, _GIVE_UP = 1.0, 60
_DRAIN = 1.0
_LOST = Counter("shoal_tftp_events_lost", "Boot events that never reached the bus")
_log = structlog.stdlib.get_logger("shoal.tftp")


class Emits(Protocol):
    """The part of the bus that events need."""

    async def emit(self, subject: str, event: BootEvent, *, id: str | None = None) -> None:  # noqa: A002
        """Append an event to the stream."""


class Announcer:
    """Sends events in their order. While the bus is away they wait, as many as fit; losses are counted and logged."""

    def __init__(self, bus: Emits) -> None:
        self._bus = bus
        self._queue: asyncio.Queue[BootEvent] = asyncio.Queue(_QUEUE)

    def __call__(self, event: BootEvent) -> None:
        """Take an event, and return at once."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._lost(event, f"{_QUEUE} events wait for the bus already")

    async def run(self) -> None:
        """Send what comes, for ever."""
        while True:
            event = await self._queue.get()
            try:
                await self._send(event)
            finally:
                self._queue.task_done()

    async def drain(self) -> None:
        """Wait until all events are sent, for a moment at most."""
        try:
            async with asyncio.timeout(_DRAIN):
                await self._queue.join()
        except TimeoutError:
            _log.warning("events.unsent", count=self._queue.qsize())

    async def _send(self, event: BootEvent) -> None:
        for attempt in range(_GIVE_UP):
            try:
                # The id makes a second attempt harmless whose first one did arrive.
                await self._bus.emit(boot_event(event.node, event.stage), event, id=_identity(event))
            except BusError as error:
                if error.code not in (500, 503):
                    self._lost(event, str(error))
                    return
                if attempt == 0:
                    _log.warning("events.wait", error=str(error))
                await asyncio.sleep(_PAUSE)
            else:
                return
        self._lost(event, f"the bus did not take it in {_GIVE_UP} attempts")

    def _lost(self, event: BootEvent, why: str) -> None:
        _LOST.inc()
        _log.error("events.lost", node=event.node, stage=event.stage.value, why=why)


def _identity(event: BootEvent) -> str:
    return f"tftp.{event.node}.{event.stage}.{event.boot}.{event.at.timestamp()}"
