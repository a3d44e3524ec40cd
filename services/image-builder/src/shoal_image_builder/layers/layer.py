"""A layer: a sorted tar, compressed with zstd, and the manifest of what is in it."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol, cast

import zstandard

from shoal_image_builder.layers.entry import Entry, LayerError, Type, content_digest
from shoal_image_builder.layers.hashing import Hashing
from shoal_image_builder.layers.tar import Source, TarWriter, read_tar

_CHUNK = 1 << 20
_LEVEL = 9
_THREADS = 2  # zstd's output is the same for any number of workers but none


class Layer(Protocol):
    """What an image is merged from."""

    @property
    def name(self) -> str:
        """For messages: `core`, `runtime`, `site`."""

    @property
    def digest(self) -> str:
        """SHA-256 that changes with anything in the layer."""

    def members(self) -> Iterator[tuple[Entry, IO[bytes] | None]]:
        """Entries in order of their paths; content must be read before the next is asked for."""


@dataclass(frozen=True)
class StoredLayer:
    """A layer in a compressed archive. `open` gives the compressed bytes; `digest` is their SHA-256."""

    name: str
    digest: str
    open: Callable[[], IO[bytes]]

    def members(self) -> Iterator[tuple[Entry, IO[bytes] | None]]:
        """See `Layer`. Raises LayerError at the end if the bytes were not those of the digest."""
        with ExitStack() as stack:
            compressed = Hashing(stack.enter_context(self.open()))
            try:
                # anything with read() will do, though the type says a whole file
                plain = zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", compressed), read_size=_CHUNK)
                yield from read_tar(plain)
            except zstandard.ZstdError as error:
                raise LayerError(f"layer {self.name} is damaged: {error}") from error
            compressed.drain()
        if compressed.digest != self.digest:
            raise LayerError(f"layer {self.name} is damaged: its SHA-256 is {compressed.digest}, not {self.digest}")


@dataclass(frozen=True)
class LooseLayer:
    """A layer made on the spot from single files."""

    name: str
    sources: Sequence[Source]

    @property
    def digest(self) -> str:
        """See `Layer`: of the entries, whose own digests stand for the content."""
        return content_digest(source.entry for source in self.sources)

    def members(self) -> Iterator[tuple[Entry, IO[bytes] | None]]:
        """See `Layer`."""
        for source in self.sources:
            if source.open is None:
                yield source.entry, None
            else:
                with source.open() as content:
                    yield source.entry, content


def loose(name: str, sources: Sequence[Source]) -> LooseLayer:
    """A LooseLayer with the directories above each member added (0755, root) where they are missing, and sorted.

    Raises LayerError if a path comes twice or lies below something that is no directory.
    """
    found: dict[str, Source] = {}
    for source in sources:
        if source.entry.path in found:
            raise LayerError(f"{name}: {source.entry.path} is there twice")
        found[source.entry.path] = source
    times = {source.entry.mtime for source in sources}
    for path in list(found):
        parent, _, _ = path.rpartition("/")
        while parent and parent not in found:
            found[parent] = Source(Entry(parent, Type.DIRECTORY, 0o755, mtime=max(times)))
            parent, _, _ = parent.rpartition("/")
        if parent and found[parent].entry.type is not Type.DIRECTORY:
            raise LayerError(f"{name}: {path} lies below {parent}, which is a {found[parent].entry.type}")
    return LooseLayer(name, tuple(found[path] for path in sorted(found)))


def file_source(entry: Entry, content: bytes) -> Source:
    """A file whose content is at hand; its size and digest are filled in."""
    complete = replace(entry, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return Source(complete, lambda: io.BytesIO(content))


def pack(sources: Sequence[Source], out: Path) -> list[Entry]:
    """Write a layer's archive; the entries with sizes and digests, for its manifest. Sources are sorted by path."""
    with out.open("wb") as file:
        compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=_THREADS, write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as stream:
            archive = TarWriter(stream)
            entries = [_add(archive, source) for source in sorted(sources, key=lambda source: source.entry.path)]
            archive.close()
    return entries


def _add(archive: TarWriter, source: Source) -> Entry:
    if source.open is None:
        archive.add(source.entry)
        return source.entry
    with source.open() as content:
        hashing = Hashing(content)
        archive.add(source.entry, hashing)
    return replace(source.entry, sha256=hashing.digest)
