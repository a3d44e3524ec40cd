"""The life of a head: bus first, then the services, `ready`, and on a signal all of it ended in the reverse order."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from shoal_cli.up import health
from shoal_cli.up.plan import CannotStart, Program
from shoal_cli.up.process import Process

_POLL = 0.2
_REMIND = 15.0
_GRACE = 10.0

Say = Callable[[str], None]


@dataclass
class Supervisor:
    """The programs of a head. `log` is the directory of their logs; `say` prints a line for the operator."""

    log: Path
    say: Say
    processes: list[Process] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _broken: asyncio.Event = field(default_factory=asyncio.Event)
    _hurry: bool = False

    def start(self, program: Program) -> Process:
        """Run a program from now on."""
        process = Process(program, self.log / f"{program.name}.log", self.say)
        task = asyncio.create_task(process.keep(), name=program.name)
        task.add_done_callback(self._ended)
        self.processes.append(process)
        self._tasks.append(task)
        return process

    async def answering(self, processes: Sequence[Process]) -> None:
        """Return when all of these answer; say so for each as it does, and now and then who does not yet."""
        waiting = list(processes)
        reminded = asyncio.get_running_loop().time()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            while waiting:
                for process in [p for p in waiting if p.pid is not None]:
                    if await health.ready(http, process):
                        process.was_ready = True
                        waiting.remove(process)
                        self.say(f"{process.program.name} is ready")
                now = asyncio.get_running_loop().time()
                if waiting and now - reminded > _REMIND:
                    reminded = now
                    self.say(f"still waiting for {', '.join(p.program.name for p in waiting)}")
                await asyncio.sleep(_POLL if waiting else 0)

    async def live(self, story: Callable[[], Awaitable[None]]) -> None:
        """Do `story`, then stay until SIGTERM or SIGINT. Raises what the story or a program that cannot run raises."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal, stop)
        telling = asyncio.ensure_future(story())
        stopped = asyncio.create_task(stop.wait())
        broken = asyncio.create_task(self._broken.wait())
        try:
            await asyncio.wait({telling, stopped, broken}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
                await asyncio.wait({stopped, broken}, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                self._raise_broken()
        finally:
            for task in (telling, stopped, broken):
                task.cancel()
            await asyncio.gather(telling, stopped, broken, return_exceptions=True)

    async def drain(self) -> None:
        """End all programs, the one started last first; the bus, started first, ends when no service needs it."""
        if not self.processes:
            return
        bus, *services = self.processes
        self.say("stopping the services")
        await asyncio.gather(*(self._stop(process) for process in services))
        await self._stop(bus)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        restarts = {process.program.name: process.restarts for process in self.processes if process.restarts}
        told = ", ".join(f"{name} {count}" for name, count in restarts.items())
        self.say(f"stopped (restarts: {told or 'none'})")

    async def _stop(self, process: Process) -> None:
        await process.stop(0 if self._hurry else _GRACE)

    def _signal(self, stop: asyncio.Event) -> None:
        """The first signal drains; another one has no more patience."""
        if stop.is_set() and not self._hurry:
            self._hurry = True
            for process in self.processes:
                asyncio.ensure_future(process.stop(0)).add_done_callback(lambda done: done.exception())
        stop.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._broken.set()

    def _raise_broken(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise (
                    error if isinstance(error, CannotStart) else RuntimeError(f"{task.get_name()}: {error}")
                ) from error
