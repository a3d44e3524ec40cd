"""Tar archives, written so that the same entries always give the same bytes, and read as a stream.

Written is POSIX pax (pax(1), ustar interchange format): a plain ustar header, preceded by an extended header only
where a value does not fit one. The standard library's writer encodes extended attributes as text, which damages
binary ones such as file capabilities; hence our own 60 lines.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from shoal_image_builder.layers.entry import Entry, LayerError, Type, canonical

_BLOCK = 512
_CHUNK = 1 << 20
_NAME_BYTES = 100
_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777
_TYPE_FLAGS = {Type.FILE: b"0", Type.SYMLINK: b"2", Type.DIRECTORY: b"5"}
_XATTR = "SCHILY.xattr."
UNREADABLE = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
"""What reading an archive may raise: a time may be `inf`, a header stand before headers without end."""


class Readable(Protocol):
    """What content is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""


class Writable(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of `data`."""


@dataclass(frozen=True)
class Source:
    """An entry and how to open its content (files alone)."""

    entry: Entry
    open: Callable[[], IO[bytes]] | None = None


class TarWriter:
    """Writes members one after another; `close` ends the archive and leaves the file beneath it open."""

    def __init__(self, out: Writable) -> None:
        self._out = out

    def add(self, entry: Entry, content: Readable | None = None) -> None:
        """Append a member; `content` must give exactly `entry.size` bytes."""
        name = entry.path.encode() + (b"/" if entry.type is Type.DIRECTORY else b"")
        target = entry.target.encode()
        extended = _extended(entry, name, target)
        if extended:
            self._out.write(_header(b"././@PaxHeader", b"x", size=len(extended)))
            self._out.write(extended + _padding(len(extended)))
        self._out.write(
            _header(
                name[:_NAME_BYTES],
                _TYPE_FLAGS[entry.type],
                size=entry.size,
                target=target[:_NAME_BYTES],
                owner=(entry.mode, entry.uid, entry.gid, entry.mtime),
            )
        )
        if entry.type is Type.FILE:
            self._copy(entry, content)

    def close(self) -> None:
        """Write the end of the archive: two empty blocks."""
        self._out.write(bytes(2 * _BLOCK))

    def _copy(self, entry: Entry, content: Readable | None) -> None:
        left = entry.size
        while left and content is not None:
            chunk = content.read(min(_CHUNK, left))
            if not chunk:
                break
            self._out.write(chunk)
            left -= len(chunk)
        if left or (content is not None and content.read(1)):
            raise LayerError(f"{entry.path}: its content is not the {entry.size} bytes that its entry says")
        self._out.write(_padding(entry.size))


def read_tar(stream: IO[bytes]) -> Iterator[tuple[Entry, IO[bytes] | None]]:
    """The members of a tar archive in order. Content must be read before the next member is asked for.

    Raises LayerError for members that are no file, directory or symbolic link, and for a damaged archive.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as archive:
            for member in archive:
                name = _relative(member.name)
                if name:
                    yield _entry(name, member), archive.extractfile(member) if member.isreg() else None
    except UNREADABLE as error:
        raise LayerError(f"the archive is damaged: {error}") from error


def entry_of(member: tarfile.TarInfo) -> Entry:
    """A member as an Entry; hard links and special files raise LayerError."""
    return _entry(_relative(member.name), member)


def _relative(name: str) -> str:
    return name.removeprefix("./").strip("/") if name not in (".", "./") else ""


def _entry(name: str, member: tarfile.TarInfo) -> Entry:
    if member.isreg():
        kind = Type.FILE
    elif member.isdir():
        kind = Type.DIRECTORY
    elif member.issym():
        kind = Type.SYMLINK
    else:
        raise LayerError(f"{name}: a member of tar type {member.type!r} cannot be in a layer")
    return Entry(
        path=canonical(name),
        type=kind,
        mode=0o777 if kind is Type.SYMLINK else member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=int(member.mtime),
        size=member.size if kind is Type.FILE else 0,
        target=member.linkname if kind is Type.SYMLINK else "",
        xattrs=_xattrs(member),
    )


def _xattrs(member: tarfile.TarInfo) -> tuple[tuple[str, bytes], ...]:
    found = {
        key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
        for key, value in member.pax_headers.items()
        if key.startswith(_XATTR)
    }
    return tuple(sorted(found.items()))


def _extended(entry: Entry, name: bytes, target: bytes) -> bytes:
    records: dict[bytes, bytes] = {_XATTR.encode() + key.encode(): value for key, value in entry.xattrs}
    texts = ((b"path", name), (b"linkpath", target))
    records |= {keyword: text for keyword, text in texts if len(text) > _NAME_BYTES or not text.isascii()}
    numbers = (
        (b"uid", entry.uid, _OCTAL_7),
        (b"gid", entry.gid, _OCTAL_7),
        (b"size", entry.size, _OCTAL_11),
        (b"mtime", entry.mtime, _OCTAL_11),
    )
    records |= {keyword: b"%d" % number for keyword, number, limit in numbers if number > limit}
    return b"".join(_record(keyword, records[keyword]) for keyword in sorted(records))


def _record(keyword: bytes, value: bytes) -> bytes:
    body = b" " + keyword + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):  # the length counts its own digits
        length = len(body) + len(str(length))
    return str(length).encode() + body


def _header(
    name: bytes,
    flag: bytes,
    *,
    size: int = 0,
    target: bytes = b"",
    owner: tuple[int, int, int, int] = (0o644, 0, 0, 0),
) -> bytes:
    mode, uid, gid, mtime = owner
    fields = (
        name.ljust(_NAME_BYTES, b"\0"),
        _octal(mode, 8),
        _octal(uid if uid <= _OCTAL_7 else 0, 8),
        _octal(gid if gid <= _OCTAL_7 else 0, 8),
        _octal(size if size <= _OCTAL_11 else 0, 12),
        _octal(max(mtime, 0) if mtime <= _OCTAL_11 else 0, 12),
        b" " * 8,
        flag,
        target.ljust(_NAME_BYTES, b"\0"),
        b"ustar\x0000",
    )
    header = b"".join(fields).ljust(_BLOCK, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
