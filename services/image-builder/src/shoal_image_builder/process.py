"""Every subprocess of the image builder: argument lists, a known environment, the end of stderr in the error, and a
`Cancel` that ends whatever runs. Nothing outlives the call that started it.
"""

import os
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import structlog

_log = structlog.get_logger(__name__)
_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
_TAIL_LINES = 15
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = ("HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class CommandFailed(Exception):
    """A program ended with an error, or is not installed. The text names it and holds the end of its stderr."""


class Cancelled(Exception):
    """The work was given up because it was told to."""


class Cancel:
    """A switch that ends a piece of work: subprocesses at once, our own code at its next step. For use by one worker
    thread and any number of others that throw it.
    """

    def __init__(self) -> None:
        self._thrown = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def throw(self) -> None:
        """Give the work up."""
        with self._lock:
            self._thrown.set()
            for process in self._running:
                _signal(process, signal.SIGTERM)

    def check(self) -> None:
        """Raise Cancelled if the switch was thrown."""
        if self._thrown.is_set():
            raise Cancelled("the work was cancelled")

    @contextmanager
    def watching(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """For as long as this lasts, throwing the switch ends the process."""
        with self._lock:
            self._running.add(process)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._running.discard(process)


def run(
    argv: Sequence[str],
    *,
    cancel: Cancel,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    stdout: IO[bytes] | None = None,
) -> None:
    """Run a program to its end; `on_line` hears its stderr as it comes. Raises CommandFailed or Cancelled."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with _started(argv, cancel, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            tail.append(line)
            if on_line is not None:
                on_line(line)
        code = process.wait()
    cancel.check()
    if code:
        raise _failure(argv, code, "\n".join(tail))


def output(argv: Sequence[str], *, cancel: Cancel, env: Mapping[str, str] | None = None) -> bytes:
    """What a program prints. Raises CommandFailed or Cancelled."""
    with tempfile.TemporaryFile() as out:
        run(argv, cancel=cancel, env=env, stdout=out)
        out.seek(0)
        return out.read()


@contextmanager
def piped(
    argv: Sequence[str], *, cancel: Cancel, env: Mapping[str, str] | None = None, feed: bool
) -> Iterator[IO[bytes]]:
    """A running program's stdin (`feed`) or stdout. Leaving the block closes it and waits for a good end.

    Raises CommandFailed, also in place of the BrokenPipeError that a program's early end causes, or Cancelled.
    """
    with tempfile.TemporaryFile() as stderr:
        pipes = (subprocess.PIPE, subprocess.DEVNULL) if feed else (subprocess.DEVNULL, subprocess.PIPE)
        broken = False
        with _started(argv, cancel, env=env, stdin=pipes[0], stdout=pipes[1], stderr=stderr) as process:
            stream = process.stdin if feed else process.stdout
            assert stream is not None
            try:
                yield stream
                if not feed:
                    _drain(stream)
                stream.close()
            except BrokenPipeError:
                broken = True
                with suppress(BrokenPipeError):
                    stream.close()
            code = process.wait()
        cancel.check()
        if code or broken:
            stderr.seek(0)
            lines = stderr.read().decode(errors="replace").splitlines()
            raise _failure(argv, code, "\n".join(lines[-_TAIL_LINES:]))


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What our programs see, the same on every machine: no locale, no time zone, no stray variables."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | {"PATH": _PATH, "LC_ALL": "C", "TZ": "UTC"} | dict(extra or {})


@contextmanager
def _started(
    argv: Sequence[str],
    cancel: Cancel,
    *,
    env: Mapping[str, str] | None,
    stdin: int,
    stdout: IO[bytes] | int | None,
    stderr: IO[bytes] | int,
) -> Iterator[subprocess.Popen[bytes]]:
    _log.debug("process.start", argv=list(argv))
    try:
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.DEVNULL if stdout is None else stdout,
            stderr=stderr,
            env=environment(env),
            umask=0o022,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]} is not installed; `make setup` installs what Shoal needs") from None
    with process:
        try:
            with cancel.watching(process):
                yield process
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process group; harmless when it is gone."""
    _signal(process, signal.SIGTERM)
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # what its buffer still held is of no interest to anyone now
            process.stdin.close()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def _drain(stream: IO[bytes]) -> None:
    """Read what the reader had no use for (an archive's padding), so that the program can end well."""
    while stream.read(1 << 20):
        pass


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.returncode is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return


def _failure(argv: Sequence[str], code: int, tail: str) -> CommandFailed:
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit status {code}"
    return CommandFailed(f"{os.path.basename(argv[0])} {how}: {tail or 'it gave no reason'}")
