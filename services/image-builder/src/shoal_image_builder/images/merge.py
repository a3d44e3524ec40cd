"""The merge of layers into one tree, as a stream: every layer is read once, in order of its paths, and nothing is
written to disk. The result does not depend on the order in which modules were named.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import IO

from shoal_image_builder.images.shared import Version, handler_for
from shoal_image_builder.layers.entry import Entry, LayerError, Type
from shoal_image_builder.layers.layer import Layer

Member = tuple[Entry, IO[bytes] | None]


class Rank(IntEnum):
    """What a layer may do to the ones before it: a module only adds, Shoal's own only adds, the site changes."""

    CORE = 0
    MODULE = 1
    OWN = 2
    SITE = 3


@dataclass(frozen=True)
class Ranked:
    """A layer and its rank."""

    layer: Layer
    rank: Rank


@dataclass
class _Head:
    """Where the merge stands in one layer."""

    source: Ranked
    members: Iterator[Member]
    entry: Entry | None = None
    content: IO[bytes] | None = None

    def advance(self) -> None:
        before = self.entry.path if self.entry is not None else ""
        self.entry, self.content = next(self.members, (None, None))
        if self.entry is not None and self.entry.path <= before:
            raise LayerError(
                f"layer {self.source.layer.name}: {self.entry.path} comes after {before}: it is not sorted"
            )

    @property
    def name(self) -> str:
        return self.source.layer.name

    @property
    def present(self) -> Entry:
        assert self.entry is not None
        return self.entry

    def text(self) -> str:
        if self.content is None:
            raise LayerError(f"{self.present.path}: layer {self.name} has no file there, others have")
        try:
            return self.content.read().decode()
        except UnicodeDecodeError:
            raise LayerError(f"{self.present.path}: layer {self.name} has no text there") from None


def merge(layers: Sequence[Ranked]) -> Iterator[Member]:
    """All members of the image in order of their paths; content must be read before the next is asked for.

    Raises LayerError where layers contradict each other, or a member lies below something that is no directory.
    """
    ordered = sorted(layers, key=lambda ranked: (ranked.rank, ranked.layer.name))
    heads = [_Head(ranked, ranked.layer.members()) for ranked in ordered]
    for head in heads:
        head.advance()
    directories: set[str] = set()
    while paths := [head.entry.path for head in heads if head.entry is not None]:
        path = min(paths)
        group = [head for head in heads if head.entry is not None and head.entry.path == path]
        parent = path.rpartition("/")[0]
        if parent and parent not in directories:
            raise LayerError(f"{path} (layer {group[-1].name}): {parent} is no directory of the image")
        entry, content = _join(path, group)
        if entry.type is Type.DIRECTORY:
            directories.add(path)
        yield entry, content
        for head in group:
            head.advance()


def _join(path: str, group: Sequence[_Head]) -> Member:
    if len(group) == 1:
        return group[0].present, group[0].content
    kinds = {head.present.type for head in group}
    if Type.DIRECTORY in kinds:
        return _join_directories(path, group), None
    handler = handler_for(path)
    if handler is not None:
        versions = [Version(head.name, head.text(), head.source.rank is Rank.SITE) for head in group]
        content = handler(path, versions).encode()
        digest = hashlib.sha256(content).hexdigest()
        return replace(group[0].present, size=len(content), sha256=digest), io.BytesIO(content)
    return _choose(path, group)


def _join_directories(path: str, group: Sequence[_Head]) -> Entry:
    """The lowest layer decides what a directory is like; others may not differ, but for the site's, which does not."""
    first = group[0].present
    for head in group[1:]:
        if head.present.type is not first.type or (
            head.source.rank is not Rank.SITE and head.present.without_time() != first.without_time()
        ):
            raise LayerError(f"{path}: {_what(head)} contradicts {_what(group[0])}")
    return first


def _choose(path: str, group: Sequence[_Head]) -> Member:
    last = group[-1]
    if last.source.rank is Rank.SITE:
        return last.present, last.content
    first = group[0]
    digest, content = _digest(first)
    for head in group[1:]:
        if head.present.without_time() != first.present.without_time() or _digest(head)[0] != digest:
            raise LayerError(f"{path}: {_what(head)} contradicts {_what(first)}")
    return first.present, content


def _digest(head: _Head) -> tuple[str, IO[bytes] | None]:
    if head.content is None:
        return "", None
    content = head.content.read()
    return hashlib.sha256(content).hexdigest(), io.BytesIO(content)


def _what(head: _Head) -> str:
    entry = head.present
    return f"the {entry.type} of layer {head.name} ({entry.mode:04o} {entry.uid}:{entry.gid})"
