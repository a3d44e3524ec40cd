"""Stage logs on disk: `<root>/<node>/<boot>.log`, of bounded size and number. Methods block.

Names come from the network: a node's id and a boot id become a path only after they were checked.
"""

import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from shoal_model import names

UNKNOWN_BOOT = "unknown"
"""Where lines go that came before any boot id did."""

_BOOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LOG = ".log"
_OLDER = ".log.1"


def boot_name(boot: str) -> str:
    """`boot` if it may name a file; else ValueError."""
    if not _BOOT.fullmatch(boot):
        raise ValueError(f"{boot!r} is no boot id: use up to 64 letters, digits, dashes and underscores")
    return boot


def printable(text: str, limit: int = 8000) -> str:
    """A line as it may be shown on a terminal: control characters are spelt out, at most `limit` characters."""
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text[:limit])


def stamped(lines: Sequence[str], stage: str, at: datetime) -> list[str]:
    """Lines as they stand in a log: when they came, of which stage they are, what they say."""
    prefix = f"{at.isoformat(timespec='milliseconds')} {printable(stage, 16)} "
    return [prefix + printable(line) for line in lines]


class StageLogs:
    """The logs of all nodes. `size` bounds one file in bytes: a boot has two, this one and what was before it."""

    def __init__(self, root: Path, *, boots: int = 5, size: int = 2 << 20) -> None:
        self._root = root
        self._boots = boots
        self._size = size

    def append(self, node: str, boot: str, lines: Iterable[str]) -> None:
        """Add lines. ValueError for a node or boot that can name no file; OSError if the disk refuses."""
        folder = self._root / names.name(node)
        path = folder / f"{boot_name(boot)}{_LOG}"
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
        fresh = not path.exists()
        if fresh:
            folder.mkdir(parents=True, exist_ok=True)
        elif path.stat().st_size + len(data) > self._size:
            os.replace(path, folder / f"{boot}{_OLDER}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o640)
        with os.fdopen(descriptor, "ab") as log:
            log.write(data[-self._size :])
        if fresh:
            self._prune(folder)

    def tail(self, node: str, boot: str, limit: int) -> str:
        """The last `limit` bytes of a boot's log, in whole lines. Empty if there is none."""
        folder = self._root / names.name(node)
        data = b""
        for path in (folder / f"{boot_name(boot)}{_LOG}", folder / f"{boot}{_OLDER}"):
            if len(data) < limit:
                data = _end(path, limit - len(data)) + data
        if len(data) == limit and b"\n" in data:
            data = data.split(b"\n", 1)[1]
        return data.decode("utf-8", "replace")

    def latest(self, node: str) -> str | None:
        """The boot whose log was written to last; None if there is none."""
        return next(iter(self._by_age(self._root / names.name(node))), None)

    def _by_age(self, folder: Path) -> list[str]:
        """The boots in a folder, the one written to last first."""
        try:
            found = [
                (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name.removesuffix(_LOG))
                for entry in os.scandir(folder)
                if entry.name.endswith(_LOG)
            ]
        except FileNotFoundError:
            return []
        return [boot for _, boot in sorted(found, reverse=True)]

    def _prune(self, folder: Path) -> None:
        for boot in self._by_age(folder)[self._boots :]:
            for suffix in (_LOG, _OLDER):
                (folder / f"{boot}{suffix}").unlink(missing_ok=True)


def _end(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - limit))
            return log.read(limit)
    except FileNotFoundError:
        return b""
