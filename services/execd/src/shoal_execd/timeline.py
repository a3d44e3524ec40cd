"""The boot timeline: each stage as one event to the head, queued while the bus is away.

Messages are maps made by hand: nodes carry no pydantic. Contract tests hold them to `shoal_model.messages`.
"""

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Protocol

from shoal_bus import codec
from shoal_bus.errors import BusError
from shoal_execd import clock
from shoal_execd.journal import Journal
from shoal_model import subjects
from shoal_model.subjects import Stage

OK, DEGRADED, FAILED = "ok", "degraded", "failed"

_KEPT = 1000
_REASON = 4000
_FLUSH = 5.0
_PAUSE = 1.0

Message = dict[str, Any]
Details = dict[str, str | int | float | bool]


def explain(error: BaseException) -> str:
    """What went wrong, for people: our own errors say it themselves, others are named."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    own = type(error).__module__.startswith("shoal_")
    return str(error) if own else f"{type(error).__name__}: {error}"


class Link(Protocol):
    """What execd uses of a connection to the bus (`shoal_bus.connection.Connection`)."""

    @property
    def connected(self) -> bool:
        """Whether the server can be reached right now."""

    async def publish(self, subject: str, message: Mapping[str, Any], /, timeout: float = 5.0) -> None:
        """Send to whoever listens; raises BusError."""

    async def publish_raw(
        self, subject: str, body: bytes, /, headers: Mapping[str, str] | None = None, *, timeout: float = 5.0
    ) -> None:
        """The same with a packed body, and headers."""

    async def request(self, subject: str, message: Mapping[str, Any], /, timeout: float = 5.0) -> Message:
        """Ask and wait for the answer; raises BusError."""

    async def flush(self, timeout: float = 5.0, /) -> None:
        """Return when the server has everything sent so far; raises BusError."""


class Timeline:
    """Events and log lines of one boot on their way to the head, in order, each kept until the server has it.

    `waiting` are messages that an earlier stage could not deliver any more. At most 1,000 wait, the newest.
    """

    def __init__(
        self, node: str, boot: str, journal: Journal, waiting: list[tuple[str, Message]] | None = None
    ) -> None:
        self.node = node
        self.boot = boot
        self.journal = journal
        self._waiting = deque(waiting or [], maxlen=_KEPT)
        self._lines: list[str] = []
        self._last = (Stage.STAGE1_START, OK)
        self._wake = asyncio.Event()
        self._stopping = False

    def event(self, stage: Stage, details: Details | None = None, *, status: str = OK, reason: str = "") -> None:
        """Note that a stage was reached, and how it went. `reason` is for people."""
        message: Message = {
            "node": self.node,
            "stage": str(stage),
            "at": clock.stamp(),
            "boot": self.boot,
            "status": status,
            "reason": self.journal.shown(reason)[:_REASON] or None,
            "details": details or {},
        }
        self._waiting.append((subjects.boot_event(self.node, stage), message))
        self._last = (stage, status)
        said = "".join(f" {key}={value}" for key, value in (details or {}).items())
        self.journal.info(f"{stage} {status}{said}" + (f": {reason}" if reason else ""))

    @contextlib.contextmanager
    def attempt(self, stage: Stage) -> Iterator[Details]:
        """Reach a stage in this block: its event follows, with the details that the block fills in, or with the reason
        why it failed.
        """
        details: Details = {}
        begin = clock.uptime()
        try:
            yield details
        except Exception as error:
            self.event(stage, details, status=FAILED, reason=explain(error))
            raise
        self.event(stage, {**details, "seconds": round(clock.uptime() - begin, 3)})

    def failed(self, error: Exception) -> None:
        """Note what ends this boot, unless the latest event says so already."""
        stage, status = self._last
        if status != FAILED:
            self.event(stage, status=FAILED, reason=explain(error))

    def rest(self) -> list[tuple[str, Message]]:
        """What has not reached the head yet, log lines included, for the next stage to deliver."""
        while lines := self._lines or self.journal.batch():
            message = self.journal.message(self.node, self.boot, lines)
            self._waiting.append((subjects.node_log(self.node), message))
            self.journal.taken(lines)
            self._lines = []
        return list(self._waiting)

    async def _deliver(self, link: Link) -> None:
        """Carry events and lines to the head until the stage ends."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        self.journal.on_line = wake
        try:
            while not self._stopping:
                self._wake.clear()
                if not await self._sent_everything(link):
                    await asyncio.sleep(_PAUSE)
                elif not self._stopping:
                    await self._wake.wait()
        finally:
            self.journal.on_line = lambda: None

    @contextlib.asynccontextmanager
    async def carried(self, link: Link, farewell: float) -> AsyncIterator[None]:
        """Have everything carried to the head during this block, and for `farewell` seconds after it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._deliver(link))
                try:
                    yield
                except Exception as error:
                    self.failed(error)
                    raise
                finally:
                    # Told to stop, not cancelled: what is on the wire is never in doubt then.
                    self._stopping = True
                    self._wake.set()
        finally:
            self._stopping = False
            await self.drain(link, farewell)

    async def drain(self, link: Link, seconds: float) -> None:
        """Deliver what waits now, for `seconds` at most; the rest stays in `rest()`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if await self._sent_everything(link):
                        return
                    await asyncio.sleep(_PAUSE / 4)
        except TimeoutError:
            self.journal.debug("the bus did not take everything before the stage ended; the next one delivers it")

    async def _sent_everything(self, link: Link) -> bool:
        """Send all that waits; False when the bus did not take it. Nothing is forgotten before the server has it."""
        while self._waiting or self.journal.batch():
            if not link.connected:
                return False
            messages = list(self._waiting)
            # The same lines until the server has them: a second sending must be the same to the last byte.
            lines = self._lines = self._lines or self.journal.batch()
            try:
                for subject, message in messages:
                    await _send(link, subject, message)
                if lines:
                    text = self.journal.message(self.node, self.boot, lines)
                    await _send(link, subjects.node_log(self.node), text)
                await link.flush(_FLUSH)
            except BusError:
                return False
            for sent in messages:
                if self._waiting and self._waiting[0] is sent:  # an overfull queue may have dropped it meanwhile
                    self._waiting.popleft()
            if lines:
                self.journal.taken(lines)
                self._lines = []
        return True


async def _send(link: Link, subject: str, message: Message) -> None:
    """Tell an event under an id made of its content: sent twice, the stream keeps it once."""
    body = codec.pack(message)
    await link.publish_raw(subjects.told(subject), body, {"Nats-Msg-Id": hashlib.sha256(body).hexdigest()[:32]})
