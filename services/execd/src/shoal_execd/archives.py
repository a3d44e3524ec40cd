"""Root FS customizations: tar archives unpacked over the root, with owner, group, mode and time kept.

An archive is looked through before anything of it is written: absolute names, `..`, devices and the like refuse it.
"""

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from shoal_execd.places import PlaceError, inside, put

LARGEST_ARCHIVE = 8 << 30
"""Bytes; one that is larger is refused by itself, and the rest of the options stands."""
_MOST = 1_000_000
_ID = 2**32 - 2
_TIME = 2.0**62
"""Seconds from 1970 that every kernel takes."""
_CAPABILITY = "SCHILY.xattr.security.capability"


class ArchiveError(Exception):
    """An archive is damaged or holds what it must not, or could not be unpacked; the text names archive and member."""


def unpack(archive: BinaryIO, root: Path, name: str) -> int:
    """Unpack a tar archive over `root`; the number of its members. Raises ArchiveError."""
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            members = _members(tar, name)
            for member in members:
                _place(tar, member, root, name)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise ArchiveError(f"customization {name} is no intact tar archive: {error}") from error
    # Last, for a directory that may not be written to could not be filled.
    for member in reversed([each for each in members if each.isdir()]):
        folder = inside(root, member.name, follow=True)
        if folder != root:
            os.chown(folder, member.uid, member.gid)
            os.chmod(folder, member.mode & 0o7777)
    return len(members)


def _members(tar: tarfile.TarFile, name: str) -> list[tarfile.TarInfo]:
    members = []
    for member in tar:
        _check(member.name, name)
        _check_numbers(member, name)
        if member.issym() and "\0" in member.linkname:
            raise ArchiveError(f"customization {name}: {member.name} is a link to {member.linkname!r}")
        if member.islnk():
            _check(member.linkname, name)
        elif not (member.isreg() or member.isdir() or member.issym()):
            raise ArchiveError(f"customization {name}: {member.name} is neither file, directory nor link")
        members.append(member)
        if len(members) > _MOST:
            raise ArchiveError(f"customization {name} has more than {_MOST} members")
    return members


def _check(path: str, name: str) -> None:
    if path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
        raise ArchiveError(f"customization {name}: {path!r} leads out of the tree")


def _check_numbers(member: tarfile.TarInfo, name: str) -> None:
    """In a pax header they may be anything: `mtime=inf`, or a size that leads back to a member read before."""
    ids = 0 <= member.uid <= _ID and 0 <= member.gid <= _ID
    if not ids or member.size < 0 or not abs(member.mtime) <= _TIME:  # nan is not, either
        raise ArchiveError(f"customization {name} is no intact tar archive: {member.name} has a number out of range")


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, name: str) -> None:
    try:
        if member.isdir():
            # A directory where the image has a link to one (/lib → usr/lib) goes through the link.
            inside(root, member.name, follow=True).mkdir(parents=True, exist_ok=True)
        elif member.issym():
            put(root, member.name, lambda new: _link(new, member))
        elif member.islnk():
            put(root, member.name, lambda new: os.link(inside(root, member.linkname), new, follow_symlinks=False))
        else:
            put(root, member.name, lambda new: _file(tar, member, new))
    except (OSError, PlaceError) as error:
        raise ArchiveError(f"customization {name}: {member.name}: {error}") from error


def _link(new: Path, member: tarfile.TarInfo) -> None:
    os.symlink(member.linkname, new)
    os.lchown(new, member.uid, member.gid)


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo, new: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None  # it is a regular file
    with content, open(new, "xb") as file:
        os.fchmod(file.fileno(), 0o600)
        shutil.copyfileobj(content, file)
        file.flush()
        os.fchown(file.fileno(), member.uid, member.gid)
        os.fchmod(file.fileno(), member.mode & 0o7777)
        if _CAPABILITY in member.pax_headers:  # last: chown(2) and write(2) take capabilities away
            value = member.pax_headers[_CAPABILITY].encode("utf-8", "surrogateescape")
            os.setxattr(file.fileno(), "security.capability", value)
        os.utime(file.fileno(), (member.mtime, member.mtime))
