"""A member of a tree: what a layer's manifest lists and what an image is compared with."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class LayerError(Exception):
    """A layer, or a tree that was to become one, is not what it must be. The text is for people."""


class Type(StrEnum):
    """What a member is. Nothing else goes into an image: devices belong to devtmpfs, sockets to their servers."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or symbolic link. `path` is relative, without `./`; `mtime` in seconds; `size` in bytes."""

    path: str
    type: Type
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    sha256: str = ""
    target: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()

    def plain(self) -> dict[str, Any]:
        """The entry as it stands in a manifest; fields that say nothing are left out."""
        data: dict[str, Any] = {"path": self.path, "type": str(self.type), "mode": f"{self.mode:04o}"}
        data |= {"uid": self.uid, "gid": self.gid, "mtime": self.mtime}
        if self.type is Type.FILE:
            data |= {"size": self.size, "sha256": self.sha256}
        if self.type is Type.SYMLINK:
            data["link"] = self.target
        if self.xattrs:
            data["xattrs"] = {name: value.hex() for name, value in self.xattrs}
        return data

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> "Entry":
        """The reverse of `plain`. KeyError or ValueError if a field is missing or wrong."""
        return cls(
            path=canonical(data["path"]),
            type=Type(data["type"]),
            mode=int(data["mode"], 8),
            uid=int(data["uid"]),
            gid=int(data["gid"]),
            mtime=int(data["mtime"]),
            size=int(data.get("size", 0)),
            sha256=str(data.get("sha256", "")),
            target=str(data.get("link", "")),
            xattrs=tuple(sorted((name, bytes.fromhex(value)) for name, value in data.get("xattrs", {}).items())),
        )

    def without_time(self) -> "Entry":
        """The entry with its time left out, for comparisons in which time says nothing."""
        return replace(self, mtime=0)


def canonical(path: str) -> str:
    """A member's path in the one form it may have: `usr/bin/env`. LayerError for anything that could not be that."""
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts) or any(ord(c) < 0x20 or ord(c) == 0x7F for c in path):
        raise LayerError(f"{path!r} cannot be a path in a layer: it must be relative, without empty, `.` or `..` parts")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in path):
        raise LayerError(f"{path!r} cannot be a path in a layer: it is not UTF-8")
    return path


def parents(path: str) -> Iterable[str]:
    """The directories above a path, topmost first: `a/b/c` → `a`, `a/b`."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def manifest_bytes(entries: Iterable[Entry]) -> bytes:
    """Entries as JSON, one to a line, for people's tools as well as ours. The order given is kept."""
    lines = ",\n".join(json.dumps(entry.plain(), sort_keys=True, separators=(",", ":")) for entry in entries)
    return f"[\n{lines}\n]\n".encode()


def parse_manifest(content: bytes) -> list[Entry]:
    """The reverse of `manifest_bytes`. LayerError if it is damaged."""
    try:
        listed = json.loads(content)
        if not isinstance(listed, list):
            raise LayerError("the manifest is no list of entries")
        return [Entry.from_plain(data) for data in listed]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise LayerError(f"the manifest cannot be read: {error!r}") from error


def content_digest(entries: Iterable[Entry]) -> str:
    """SHA-256 of a list of entries: the same content gives the same digest whatever compressed it."""
    return hashlib.sha256(manifest_bytes(entries)).hexdigest()
