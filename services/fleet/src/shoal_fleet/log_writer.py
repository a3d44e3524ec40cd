"""Lines of stage logs on their way to the disk: one queue, one task, one thread call for all that waits."""

import asyncio
import contextlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from prometheus_client import Counter

from shoal_fleet.datagrams import Gate
from shoal_fleet.stage_logs import UNKNOWN_BOOT, StageLogs, stamped
from shoal_model.messages import LogLines

_QUEUE = 10_000
_SEEN = 50_000
_LOG = structlog.stdlib.get_logger("shoal.fleet")
_DROPPED = Counter("shoal_fleet_log_dropped", "Log messages and datagrams that were dropped", ["reason"])


@dataclass(frozen=True)
class _Part:
    """Lines for one log; `position` is that of the event they came with."""

    node: str
    boot: str
    lines: list[str]
    position: int | None = None


class LogWriter:
    """Takes lines from the bus, waiting where it must, and from the network, dropping where it must."""

    def __init__(self, logs: StageLogs, position: Path, now: Callable[[], datetime]) -> None:
        self._logs = logs
        self._position_file = position
        self._now = now
        self._queue: asyncio.Queue[_Part] = asyncio.Queue(_QUEUE)
        self._latest: OrderedDict[tuple[str, str, str], LogLines] = OrderedDict()

    def position(self) -> int:
        """The sequence of the last event whose lines are on disk; 0 at the first start."""
        try:
            return int(json.loads(self._position_file.read_text())["sequence"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError) as error:
            _LOG.warning("fleet.position.unreadable", file=str(self._position_file), reason=str(error))
            return 0

    async def lines(self, message: LogLines, position: int) -> None:
        """A message of stored lines; one that is sent again is passed over, and a gap is told in the log."""
        lines = stamped(message.lines, message.stage, self._now())
        key = (message.node, message.boot, message.stage)
        before = self._latest.pop(key, None)
        self._latest[key] = message
        while len(self._latest) > _SEEN:
            self._latest.popitem(last=False)
        if before == message:
            lines = []
        elif before is not None and message.sequence > before.sequence + 1:
            lost = message.sequence - before.sequence - 1
            lines = [*stamped([f"({lost} messages of this log were lost)"], message.stage, self._now()), *lines]
        await self._queue.put(_Part(message.node, message.boot, lines, position))

    def datagram(self, node: str, boot: str | None, lines: list[str]) -> None:
        """Lines of a datagram."""
        try:
            self._queue.put_nowait(_Part(node, boot or UNKNOWN_BOOT, stamped(lines, "udp", self._now())))
        except asyncio.QueueFull:
            _DROPPED.labels("full").inc()

    async def run(self) -> None:
        """Write what comes, for ever; what is queued when this is cancelled is written, too."""
        try:
            while True:
                parts = [await self._queue.get(), *self._waiting()]
                await asyncio.to_thread(self._write, parts)
                for _ in parts:
                    self._queue.task_done()
        finally:
            self._write(self._waiting())

    async def drained(self) -> None:
        """Wait until everything that was taken is written."""
        await self._queue.join()

    def _waiting(self) -> list[_Part]:
        parts: list[_Part] = []
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                parts.append(self._queue.get_nowait())
        return parts

    def _write(self, parts: list[_Part]) -> None:
        by_log: dict[tuple[str, str], list[str]] = {}
        for part in parts:
            by_log.setdefault((part.node, part.boot), []).extend(part.lines)
        for (node, boot), lines in by_log.items():
            try:
                if lines:
                    self._logs.append(node, boot, lines)
            except ValueError as error:
                _DROPPED.labels("name").inc()
                _LOG.warning("fleet.log.refused", node=node, reason=str(error))
            except OSError as error:
                _DROPPED.labels("disk").inc()
                _LOG.error("fleet.log.unwritten", node=node, reason=str(error))
        position = max((part.position for part in parts if part.position is not None), default=None)
        if position is not None:
            self._save(position)

    def _save(self, position: int) -> None:
        """Atomically; without syncing, for after a power cut the lines behind it are gone as well."""
        folder = self._position_file.parent
        folder.mkdir(parents=True, exist_ok=True)
        partial: Path | None = None
        try:
            with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".position-", delete=False) as file:
                partial = Path(file.name)
                json.dump({"sequence": position}, file)
            os.replace(partial, self._position_file)
        except OSError as error:
            if partial is not None:  # the disk may be full: one more file a second would not help it
                with contextlib.suppress(OSError):
                    partial.unlink()
            _LOG.error("fleet.position.unwritten", file=str(self._position_file), reason=str(error))


class LogSocket(asyncio.DatagramProtocol):
    """The socket to which stage 1 logs before it reaches the bus."""

    def __init__(self, gate: Gate, writer: LogWriter, latest_boot: Callable[[str], str | None]) -> None:
        self._gate = gate
        self._writer = writer
        self._latest_boot = latest_boot

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        passed = self._gate.lines(data, addr[0], asyncio.get_running_loop().time())
        if passed is None:
            _DROPPED.labels("gate").inc()
            return
        node, lines = passed
        self._writer.datagram(node, self._latest_boot(node), lines)

    def error_received(self, exc: Exception) -> None:
        _LOG.warning("fleet.log_socket", reason=str(exc))
