"""The archive of an initrd: cpio in its `newc` form (Linux, Documentation/driver-api/early-userspace/buffer-format).

Written here rather than by cpio(1): inode numbers, link counts and devices must not depend on a file system.
"""

from collections.abc import Iterable
from typing import IO

from shoal_image_builder.layers.entry import Entry, LayerError, Type
from shoal_image_builder.layers.tar import Writable

Member = tuple[Entry, IO[bytes] | None]

_TYPE_BITS = {Type.FILE: 0o100000, Type.DIRECTORY: 0o040000, Type.SYMLINK: 0o120000}
_CHARACTER_DEVICE = 0o020000
_DEVICES = {"console": (5, 1, 0o600), "null": (1, 3, 0o666), "random": (1, 8, 0o666), "urandom": (1, 9, 0o666)}
"""What the first process needs before it can mount devtmpfs: without a console it is mute, and without urandom Python
does not start as long as the kernel has gathered no randomness.
"""
_TRAILER = "TRAILER!!!"


def write(members: Iterable[Member], out: Writable) -> None:
    """Write members in the order given; where `dev` is among them, with the devices of the first moments."""
    number = 1
    for entry, content in members:
        body = entry.target.encode() if entry.type is Type.SYMLINK else content.read() if content is not None else b""
        if entry.type is Type.FILE and len(body) != entry.size:
            raise LayerError(f"{entry.path}: its content is not the {entry.size} bytes that its entry says")
        mode = _TYPE_BITS[entry.type] | entry.mode
        out.write(_member(entry.path, number, mode=mode, owner=(entry.uid, entry.gid, entry.mtime), body=body))
        number += 1
        for name, (major, minor, rights) in _DEVICES.items() if entry.path == "dev" else ():
            owner, mode = (0, 0, entry.mtime), _CHARACTER_DEVICE | rights
            out.write(_member(f"dev/{name}", number, mode=mode, owner=owner, device=(major, minor)))
            number += 1
    out.write(_member(_TRAILER, 0, mode=0, owner=(0, 0, 0)))


def _member(
    path: str,
    number: int,
    *,
    mode: int,
    owner: tuple[int, int, int],
    body: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    uid, gid, mtime = owner
    name = path.encode() + b"\0"
    links = 2 if mode & _TYPE_BITS[Type.DIRECTORY] == mode & 0o170000 else 1
    fields = (number, mode, uid, gid, links, mtime, len(body), 0, 0, *device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(body)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
