"""Paths below a root directory, with its symbolic links read as a process would that has it as its root.

Whatever an option or an archive names, it ends up below the root: absolute links begin there, `..` stops there.
"""

import os
import secrets
from collections import deque
from collections.abc import Callable
from pathlib import Path

_LINKS = 40


class PlaceError(Exception):
    """A path cannot be used; the text names it."""


def inside(root: Path, path: str, *, follow: bool = False) -> Path:
    """Where `path` leads below `root`. The last component's link is followed only with `follow`. Raises PlaceError."""
    here, links = root, 0
    parts = deque(part for part in path.split("/") if part not in ("", "."))
    while parts:
        part = parts.popleft()
        if part == "..":
            here = here.parent if here != root else root
            continue
        if (parts or follow) and (here / part).is_symlink():
            links += 1
            if links > _LINKS:
                raise PlaceError(f"{path}: too many symbolic links")
            target = os.readlink(here / part)
            here = root if target.startswith("/") else here
            parts.extendleft(reversed([each for each in target.split("/") if each not in ("", ".")]))
            continue
        here /= part
    return here


def parent_of(root: Path, path: str) -> Path:
    """The directory in which `path` is to be put, made if missing. Raises PlaceError, OSError."""
    folder = inside(root, os.path.dirname(path.rstrip("/")), follow=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    return folder


def put(root: Path, path: str, make: Callable[[Path], None]) -> None:
    """Have `make` create something beside `path`, then put it in its place at once. Raises PlaceError, OSError."""
    folder = parent_of(root, path)
    new = folder / f".shoal-{secrets.token_hex(6)}"
    try:
        make(new)
        os.replace(new, folder / os.path.basename(path.rstrip("/")))
    finally:
        new.unlink(missing_ok=True)


def write_file(root: Path, path: str, content: bytes, mode: int, owner: tuple[int, int]) -> None:
    """Write a whole file atomically, with mode and owner (uid, gid). Raises PlaceError, OSError."""

    def make(new: Path) -> None:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)

    put(root, path, make)
