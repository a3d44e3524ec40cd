"""Files that are there whole or not at all, whenever the power fails, and that nobody else may read."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

OPEN = stat.S_IRWXG | stat.S_IRWXO


def folder(path: Path, mode: int) -> None:
    """A directory with this mode, whatever the umask is, and whatever mode it had. Raises OSError."""
    if not path.is_dir():
        path.mkdir(mode=mode)
        sync(path.parent)
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def place(path: Path, data: bytes, mode: int) -> None:
    """Have a file hold this, in one step that outlives a power cut. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of a start that was cut short
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync(path.parent)


def sync(directory: Path) -> None:
    """Return when the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exposed(paths: Iterable[Path]) -> list[Path]:
    """Those of the files which others than their owner may read or change."""
    return [path for path in paths if path.exists() and path.stat().st_mode & OPEN]
