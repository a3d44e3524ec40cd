"""Every subprocess of execd starts here: argument lists, a time limit, errors with a reason."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

BUSYBOX = "/usr/lib/shoal/bin/busybox"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TAIL = 400
_GRACE = 1.0
"""Seconds for which the output of a program that has ended is still read, if others hold it open."""

Hear = Callable[[int, bytes], None]
"""Takes what a program says: on which file descriptor, and what."""


class ProcessFailed(Exception):
    """A program could not be started, ran out of time or failed; the text names it and the end of what it said."""


def environment() -> dict[str, str]:
    """What a program started by execd sees: the usual places, nothing of execd's own surroundings."""
    return {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "linux")}


def run(argv: Sequence[str], *, timeout: float, check: bool = True) -> tuple[int, str]:
    """Run a program to its end; its exit code and output, both streams together.

    `timeout` is in seconds. Raises ProcessFailed; with `check`, for an exit code other than 0 as well.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f"{' '.join(argv)}: not finished after {timeout:g} s") from None
    except OSError as error:
        raise ProcessFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
    output = done.stdout.decode("utf-8", "replace")
    if check and done.returncode != 0:
        raise ProcessFailed(f"{' '.join(argv)}: exit code {done.returncode}: {output.strip()[-_TAIL:]}")
    return done.returncode, output


async def watched(argv: Sequence[str], hear: Hear, *, timeout: float, stderr: int = asyncio.subprocess.PIPE) -> int:
    """Run a program of others, whatever it does, in a session of its own; its exit code. `hear` gets its output.

    `timeout` is in seconds; then its process group is killed. What it leaves in the background is not waited for.
    Raises ProcessFailed if it cannot be started, or was killed.
    """
    try:
        transport, watch = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Watch(hear),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise ProcessFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout):
            await watch.exited.wait()
    except TimeoutError:
        raise ProcessFailed(f"not finished after {timeout:g} s; it was killed") from None
    finally:
        if not watch.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
        # Its children may hold its output open, and who waits for a dead file server outlives even SIGKILL.
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await watch.closed.wait()
        finally:
            transport.close()
    code = transport.get_returncode()
    assert code is not None  # it has exited
    return code


class _Watch(asyncio.SubprocessProtocol):
    """Hears what a process says, and when it ends. (`Process.wait()` waits for whoever holds its pipes.)"""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._hear(fd, data)

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
