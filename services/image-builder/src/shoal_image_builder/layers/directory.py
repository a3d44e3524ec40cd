"""A directory of this machine as members of a layer or archive."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shoal_image_builder.layers.entry import Entry, LayerError, Type, canonical
from shoal_image_builder.layers.tar import Source

_CAPABILITY = "security.capability"


def directory_sources(tree: Path) -> list[Source]:
    """Everything below `tree`, sorted, with owners, groups, modes and times (whole seconds) as they are.

    File capabilities are kept, other extended attributes are not; hard links become files of their own. LayerError
    names what is neither file, directory nor symbolic link, and what has no UTF-8 name or cannot be read.
    """
    return sorted((_source(path, tree) for path in _walk(tree)), key=lambda source: source.entry.path)


def _walk(tree: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(tree, onerror=_refuse):
        yield from (Path(folder) / name for name in (*folders, *files))


def _refuse(error: OSError) -> None:
    raise LayerError(f"{error.filename} cannot be read: {error.strerror}") from error


def _source(path: Path, tree: Path) -> Source:
    name = canonical(path.relative_to(tree).as_posix())
    try:
        status = path.lstat()
    except OSError as error:
        raise LayerError(f"{path} cannot be read: {error.strerror}") from error
    mode, mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    entry = Entry(name, Type.DIRECTORY, mode, uid=status.st_uid, gid=status.st_gid, mtime=mtime)
    if stat.S_ISDIR(status.st_mode):
        return Source(entry)
    if stat.S_ISLNK(status.st_mode):
        return Source(replace(entry, type=Type.SYMLINK, mode=0o777, target=_target(path)))
    if stat.S_ISREG(status.st_mode):
        file = replace(entry, type=Type.FILE, size=status.st_size, xattrs=_capabilities(path))
        return Source(file, lambda: path.open("rb"))
    raise LayerError(f"{path} is a socket, pipe or device, which a node cannot be given: remove it")


def _target(path: Path) -> str:
    target = os.readlink(path)
    try:
        target.encode()
    except UnicodeEncodeError as error:
        raise LayerError(f"{path} is a link to {target!r}, which is not UTF-8: remove or rename it") from error
    return target


def _capabilities(path: Path) -> tuple[tuple[str, bytes], ...]:
    try:
        return ((_CAPABILITY, os.getxattr(path, _CAPABILITY)),)
    except OSError:
        return ()  # it has none, as most files, or its file system knows of none
