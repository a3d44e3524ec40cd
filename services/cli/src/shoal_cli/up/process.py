"""One child, kept running: started again with growing delays, its output to a log file and, prefixed, to ours."""

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from shoal_cli.terminal import safe_lines, text_of
from shoal_cli.up.log_file import LogFile
from shoal_cli.up.plan import CannotStart, Program, backoff, ending

_PR_SET_PDEATHSIG = 1  # prctl(2)
_BAD_SETTINGS = 2  # what a service exits with when it cannot understand its settings
_SETTLED = 60.0  # seconds after which a program counts as running well
_MAX_LINE = 16384
_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A program under supervision. `say` prints a line for the operator."""

    def __init__(self, program: Program, log: Path, say: Callable[[str], None]) -> None:
        self.program = program
        self.restarts = 0
        self.was_ready = False
        self.latest: deque[str] = deque(maxlen=5)
        self._say = say
        self._log = log
        self._failures = 0
        self._child: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    async def keep(self) -> None:
        """Run the program, again and again, until `stop`. Raises CannotStart if its settings are wrong."""
        log = LogFile(self._log, self._say)
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                code = await self._once(log)
                if self._stopping.is_set():
                    return
                if code == _BAD_SETTINGS and not self.was_ready:
                    raise CannotStart(f"{self.program.name} refuses its settings: {' / '.join(self.latest)}")
                self._failures = 1 if time.monotonic() - started > _SETTLED else self._failures + 1
                self.restarts += 1
                delay = backoff(self._failures, random.random())
                self._say(
                    f"{self.program.name} ended with {ending(code)}; restart {self.restarts} in {delay:.1f} s "
                    f"(log: {self._log})"
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
        finally:
            log.close()

    async def stop(self, grace: float) -> None:
        """End the program: SIGTERM, and SIGKILL if it is still there after `grace` seconds. It is not started again."""
        self._stopping.set()
        await self.again(grace)

    async def again(self, grace: float) -> None:
        """End the program as `stop` does; unless `stop` was called, it starts again."""
        child = self._child
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM if grace > 0 else signal.SIGKILL)
        try:
            await asyncio.wait_for(child.wait(), grace if grace > 0 else None)
        except TimeoutError:
            self._say(f"{self.program.name} did not end within {grace:.0f} s: killed")
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _once(self, log: LogFile) -> int:
        parent = os.getpid()

        def die_with_us() -> None:
            # Runs between fork and exec. The supervisor may be gone before prctl takes effect: look after it.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        try:
            child = await asyncio.create_subprocess_exec(
                *self.program.argv,
                env=dict(self.program.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                process_group=0,  # Ctrl-C at the terminal is for the supervisor, which then drains in order
                preexec_fn=die_with_us,
            )
        except OSError as error:
            raise CannotStart(f"cannot run {self.program.argv[0]}: {error.strerror}") from error
        self._child = child
        assert child.stdout is not None
        async for line in _lines(child.stdout):
            log.write(line)
            for text in safe_lines(text_of(line)):
                self.latest.append(text)
                self._say(f"{self.program.name:>13} | {text}")
        return await child.wait()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines without their ends; longer ones than 16 KiB come in pieces, so that no line fills the memory."""
    rest = b""
    while chunk := await stream.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line[:_MAX_LINE]
        while len(rest) > _MAX_LINE:
            yield rest[:_MAX_LINE]
            rest = rest[_MAX_LINE:]
    if rest:
        yield rest
