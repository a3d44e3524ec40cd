"""A head after `ready`: asks every program how it is, tells what it hears, and helps a bus whose disk was full."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from shoal_cli.terminal import safe
from shoal_cli.up.doors import listens
from shoal_cli.up.process import Process

ROOM = 64 << 20
"""Bytes free on the state's disk below which it counts as full, and a restart of the bus would help nothing."""
_PERIOD = 10.0
_PATIENCE = 3
_LONGEST = 48
_GRACE = 10.0
_MAX_BODY = 400
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)

Say = Callable[[str], None]


@dataclass
class Record:
    """What was heard of one program. `patience` is how many bad answers in a row are too many: it doubles with each
    restart, because a large store takes its time to come back.
    """

    pid: int | None = None
    failures: int = 0
    patience: int = _PATIENCE
    told: str | None = None

    def hear(self, pid: int | None, reason: str | None) -> bool:
        """Take note of an answer (None: all is well) of this process; returns whether there were too many bad ones."""
        if pid != self.pid:
            self.pid, self.failures = pid, 0
        if reason is None:
            self.failures, self.patience = 0, _PATIENCE
            return False
        self.failures += 1
        return self.failures >= self.patience

    def restarted(self) -> None:
        """The program begins anew."""
        self.failures, self.patience = 0, min(2 * self.patience, _LONGEST)


async def watch(processes: Sequence[Process], state: Path, say: Say, *, period: float = _PERIOD) -> None:
    """Look after these for ever. JetStream keeps an error of its disk until its server starts again, so a program that
    says `needs_restart` and stays unwell is restarted as soon as the disk of `state` has room.
    """
    records = {process.program.name: Record() for process in processes}
    timeout = aiohttp.ClientTimeout(total=5)
    while True:
        await asyncio.sleep(period)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            reasons = await asyncio.gather(*(_reason(http, process) for process in processes))
        for process, reason in zip(processes, reasons, strict=True):
            await _consider(process, records[process.program.name], reason, state, say)


async def _consider(process: Process, record: Record, reason: str | None, state: Path, say: Say) -> None:
    name = process.program.name
    if process.pid is None:  # its end was told of, and it is being started again
        return
    too_many = record.hear(process.pid, reason)
    if reason is None and record.told is not None:
        record.told = None
        say(f"{name} is healthy again")
    if not too_many:
        return
    free = room(state)
    full = free is not None and free < ROOM
    cause = f"; the disk of {state} is full ({(free or 0) >> 20} MiB free): make room" if full else ""
    if record.told != f"{reason}{cause}":
        record.told = f"{reason}{cause}"
        say(f"{name} is not healthy: {record.told}")
    if process.program.restart_helps and not full:
        say(f"restarting {name}")
        record.restarted()
        await process.again(_GRACE)


def room(state: Path) -> int | None:
    """Bytes free where the state is kept; None if that cannot be told."""
    try:
        return shutil.disk_usage(state).free
    except OSError:
        return None


async def ready(http: aiohttp.ClientSession, process: Process) -> bool:
    """Whether the program does its work. The process itself must listen there: another head's may answer, too."""
    url = process.program.health
    try:
        async with http.get(url) as answer:
            if answer.status != 200:
                return False
    except _UNREACHABLE:
        return False
    return process.pid is not None and listens(process.pid, urlsplit(url).port or 80)


async def _reason(http: aiohttp.ClientSession, process: Process) -> str | None:
    """Why a program is not well; None if it is. The path of its page is not told."""
    url = process.program.alive
    where = f"http://{urlsplit(url).netloc}"
    try:
        async with http.get(url) as answer:
            if answer.status == 200:
                return None
            body = (await answer.content.read(_MAX_BODY)).decode("utf-8", "backslashreplace")
            return f"{where} answers {answer.status}: {safe(' '.join(body.split())) or 'nothing'}"
    except _UNREACHABLE as error:
        return f"{where} does not answer: {safe(str(error)) or type(error).__name__}"
