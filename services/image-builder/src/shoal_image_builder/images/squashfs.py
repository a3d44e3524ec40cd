"""Squashfs: a stream of members into an image, and back again to compare. tar2sqfs and sqfs2tar need no root."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from shoal_image_builder.layers.entry import Entry, LayerError
from shoal_image_builder.layers.hashing import Hashing
from shoal_image_builder.layers.tar import TarWriter, read_tar
from shoal_image_builder.process import Cancel, piped

LEVEL = 9
BLOCK = "256K"
"""Compression and block size: the best of size, time to build and time to read at random."""


class NotWhatWasPacked(Exception):
    """The image read back differs from what went into it."""


def write(members: Iterable[tuple[Entry, IO[bytes] | None]], out: Path, *, epoch: int, cancel: Cancel) -> list[Entry]:
    """Pack members, in order of their paths, into the image `out`; their entries with digests."""
    argv = ["tar2sqfs", "--quiet", "--force", "--no-skip", "--compressor", "zstd", "--comp-extra", f"level={LEVEL}"]
    argv += ["--block-size", BLOCK, "--defaults", f"uid=0,gid=0,mode=0755,mtime={epoch}", str(out)]
    entries: list[Entry] = []
    with piped(argv, cancel=cancel, env={"SOURCE_DATE_EPOCH": str(epoch)}, feed=True) as pipe:
        archive = TarWriter(pipe)
        for entry, content in members:
            cancel.check()
            hashing = Hashing(content) if content is not None else None
            archive.add(entry, hashing)
            entries.append(replace(entry, sha256=hashing.digest) if hashing is not None else entry)
        archive.close()
    return entries


def verify(image: Path, expected: Iterable[Entry], *, cancel: Cancel) -> None:
    """Read an image back and compare every entry and every byte. Raises NotWhatWasPacked."""
    left = {entry.path: entry for entry in expected}
    with piped(["sqfs2tar", "--no-skip", "--no-hard-links", str(image)], cancel=cancel, feed=False) as pipe:
        for entry in _digested(pipe):
            cancel.check()
            wanted = left.pop(entry.path, None)
            if wanted != entry:
                raise NotWhatWasPacked(f"{image}: {entry.path} is {entry}, packed was {wanted}")
    if left:
        raise NotWhatWasPacked(f"{image}: {len(left)} members are missing, among them {min(left)}")


def _digested(stream: IO[bytes]) -> Iterator[Entry]:
    try:
        for entry, content in read_tar(stream):
            if content is None:
                yield entry
            else:
                hashing = Hashing(content)
                hashing.drain()
                yield replace(entry, sha256=hashing.digest)
    except LayerError as error:
        raise NotWhatWasPacked(f"what was packed cannot be read back: {error}") from error
