"""The scripts of `/lib/shoal/init.d`: run in alphanumeric order before systemd starts, their output in the log."""

import asyncio
import os
from pathlib import Path

from shoal_execd.journal import Journal
from shoal_execd.places import inside
from shoal_execd.processes import ProcessFailed, watched

FOLDER = "/lib/shoal/init.d"
_TIMEOUT = 300.0
_LONGEST_LINE = 4096


def scripts(root: Path) -> list[Path]:
    """The executable files of the directory, in the order in which they run (by the bytes of their names)."""
    folder = inside(root, FOLDER, follow=True)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)]
    return sorted(found, key=lambda path: os.fsencode(path.name))


def run_all(root: Path, journal: Journal, *, timeout: float = _TIMEOUT) -> dict[str, str]:
    """Run them all, whatever becomes of each: name → `0` or what went wrong (`exit code 3`, `not finished after …`).

    `timeout` is in seconds, for each of them. Blocking, for a slow console holds up whoever writes to the journal.
    """

    async def one_by_one() -> dict[str, str]:
        return {path.name: await _run(path, journal, timeout) for path in scripts(root)}

    return asyncio.run(one_by_one())


async def _run(path: Path, journal: Journal, timeout: float) -> str:
    journal.info(f"{path.name}: begins")
    lines = _Lines(path.name, journal)
    try:
        code = await watched([str(path)], lines.hear, timeout=timeout, stderr=asyncio.subprocess.STDOUT)
        result = f"exit code {code}" if code else "0"
    except ProcessFailed as error:
        result = str(error)
    lines.end()
    journal.info(f"{path.name}: ends: {result}")
    return result


class _Lines:
    """Makes lines for the journal of what a script says in pieces."""

    def __init__(self, name: str, journal: Journal) -> None:
        self._name, self._journal = name, journal
        self._begun = b""

    def hear(self, _: int, data: bytes) -> None:
        """The next piece."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._journal.info(f"{self._name}: {line.decode('utf-8', 'replace').rstrip()}")
        if len(self._begun) > _LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """A line that was begun ends here."""
        if self._begun:
            self.hear(0, b"\n")
