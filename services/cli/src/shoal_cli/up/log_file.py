"""Logs of bounded length, which a full disk interrupts and does not end."""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path

_MAX_BYTES = 20_000_000
_PAUSE = 10.0


class LogFile:
    """A log: when it is full, it becomes `<name>.1` and a new one begins. Where it cannot be written, `say` tells so
    once, lines are left out, and it is tried again every few seconds by `clock`.
    """

    def __init__(
        self,
        path: Path,
        say: Callable[[str], None],
        *,
        limit: int = _MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._say, self._limit, self._clock = path, say, limit, clock
        self._file: FileIO | None = None
        self._missing = 0
        self._again = float("-inf")

    def write(self, line: bytes) -> None:
        """Append one line, if it can be."""
        if self._clock() < self._again:
            self._missing += 1
            return
        try:
            self._append(line)
        except OSError as error:
            self.close()
            self._again = self._clock() + _PAUSE
            if not self._missing:
                self._say(
                    f"cannot write {self._path}: {error.strerror}; until it can be, its lines are shown here alone"
                )
            self._missing += 1
            return
        if self._missing:
            self._say(f"{self._path} is written again; lines missing in it: {self._missing}")
            self._missing = 0

    def close(self) -> None:
        """Let go of the file; the next line opens it again."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written was told of already
                self._file.close()
            self._file = None

    def _append(self, line: bytes) -> None:
        if self._file is not None and self._file.tell() > self._limit:
            self.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        if self._file is None:
            self._file = FileIO(self._path, "a")
        # A line may have been torn where the disk was full.
        data = (b"\n" if self._missing else b"") + line + b"\n"
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
