"""The log of a stage: to the console, the kernel's log and a file at once, and in batches to the head.

Lines carry seconds since the kernel started, which no step of the clock disturbs.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal_execd import clock

Output = Callable[[str], None]

_LINE = 2000
_KEPT = 5000
_BATCH_LINES, _BATCH_CHARACTERS = 200, 60_000


class Journal:
    """Lines of one stage. Threads may write; batches for the head are taken by one task.

    `verbose` lets `debug` lines through to the outputs; `secrets` are texts that no line ever shows. At most 5,000
    lines wait for the head, the newest.
    """

    def __init__(
        self, stage: str, outputs: Sequence[Output], *, verbose: bool = False, secrets: Sequence[str] = ()
    ) -> None:
        self.stage = stage
        self.on_line: Callable[[], None] = _nothing
        self._outputs = tuple(outputs)
        self._verbose = verbose
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()
        self._first = 0
        self._dropped = 0
        self._batch = (0, 0)
        self._sequence = 0

    def info(self, text: str) -> None:
        """Log a line, or several."""
        for line in self.shown(text).splitlines() or [""]:
            self._write(line)

    def debug(self, text: str) -> None:
        """Log what only `debug` on the kernel command line asks for."""
        if self._verbose:
            self.info(text)

    def shown(self, text: str) -> str:
        """A text as it may be shown: `…` in the place of each secret."""
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text

    def _write(self, text: str) -> None:
        printable = "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
        line = f"[{clock.uptime():9.3f}] {printable}"[:_LINE]
        with self._lock:
            self._waiting.append(line)
            if len(self._waiting) > _KEPT:
                self._waiting.popleft()
                self._first += 1
                self._dropped += 1
            for output in self._outputs:
                output(line)
        self.on_line()

    def batch(self) -> list[str]:
        """The oldest lines that no `taken` acknowledged yet, at most 200 or 60,000 characters. Empty if none wait."""
        lines: list[str] = []
        with self._lock:
            self._batch = self._first, self._dropped
            if self._dropped:
                lines.append(f"({self._dropped} lines lost: the head was away for too long)")
            characters = 0
            for line in self._waiting:
                characters += len(line)
                if len(lines) >= _BATCH_LINES or characters > _BATCH_CHARACTERS:
                    break
                lines.append(line)
        return lines

    def message(self, node: str, boot: str, lines: list[str]) -> dict[str, Any]:
        """A `LogLines` message of a batch."""
        return {"node": node, "boot": boot, "stage": self.stage, "sequence": self._sequence, "lines": lines}

    def taken(self, lines: list[str], *, counted: bool = True) -> None:
        """The first lines of the latest batch have reached the head, over the bus (`counted`) or another way."""
        with self._lock:
            start, told = self._batch
            end = start + len(lines) - (told > 0)
            # What was dropped while it was on its way did arrive.
            self._dropped -= told + max(0, min(end, self._first) - start)
            while self._first < end:
                self._waiting.popleft()
                self._first += 1
            self._sequence += counted


def _nothing() -> None:
    """Nobody carries lines to the head yet."""


def to_file(path: Path) -> Output:
    """An output that appends to a file, unbuffered, so that a crash loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def write(line: str) -> None:
        os.write(descriptor, line.encode() + b"\n")

    return write


def to_console() -> Output:
    """An output to the console that the kernel gave this process (file descriptor 2)."""

    def write(line: str) -> None:
        # A serial console that went away must not stop a boot.
        with contextlib.suppress(OSError):
            os.write(2, line.encode("ascii", "replace") + b"\r\n")

    return write


def to_stdout() -> Output:
    """An output to standard output, which systemd's journal takes; it stamps lines itself, but not with our seconds."""

    def write(line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(1, line.encode() + b"\n")

    return write


def to_kernel(path: Path = Path("/dev/kmsg")) -> Output:
    """An output to the kernel's log, at level debug: the console has the line already."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write(line: str) -> None:
        # The kernel refuses records that are too long or come too fast; the other outputs have them.
        with contextlib.suppress(OSError):
            os.write(descriptor, b"<7>shoal: " + line.encode()[:900])

    return write
