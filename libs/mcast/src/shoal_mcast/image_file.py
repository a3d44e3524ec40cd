"""The image on its way in: a file in memory, and which of its blocks are there and verified.

Both ways an image comes, multicast and HTTP, write into the same object, so that what one verified the other keeps.
"""

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from shoal_mcast.geometry import Geometry

_MADV_POPULATE_WRITE = 23


class ImageFile:
    """`buffer` is the file's whole content, writable; `verified` has a 1 for each block that matches its hash.

    `hashes` are the SHA-256 of each block as 64 hex digits. Not for several threads at once.
    """

    def __init__(self, memory: mmap.mmap, geometry: Geometry, hashes: Sequence[str]) -> None:
        if len(hashes) != geometry.blocks:
            raise ValueError(f"the manifest has {len(hashes)} block hashes, the image {geometry.blocks} blocks")
        self.geometry = geometry
        self.hashes = tuple(hashes)
        self.verified = bytearray(geometry.blocks)
        self.buffer = memoryview(memory)
        self._memory = memory
        self._populated = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, target: Path | int, geometry: Geometry, hashes: Sequence[str]) -> Iterator[Self]:
        """Map a file (a path, or an open descriptor) at the image's size; it must not be a pipe or a device.

        Raises OSError (ENOSPC) now rather than a signal later, if the file system has no room for the image.
        """
        descriptor = (
            target if isinstance(target, int) else os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        )
        try:
            os.posix_fallocate(descriptor, 0, geometry.size)
            os.ftruncate(descriptor, geometry.size)
            with mmap.mmap(descriptor, geometry.size) as memory:
                image = cls(memory, geometry, hashes)
                try:
                    yield image
                finally:
                    image.buffer.release()
        finally:
            if not isinstance(target, int):
                os.close(descriptor)

    @property
    def complete(self) -> bool:
        """Whether every block is verified."""
        return 0 not in self.verified

    @property
    def missing(self) -> list[int]:
        """The blocks that are not verified, in order."""
        return [block for block, there in enumerate(self.verified) if not there]

    @property
    def verified_bytes(self) -> int:
        """Bytes in verified blocks."""
        size = self.verified.count(1) * self.geometry.block_size
        start, end = self.geometry.span(self.geometry.blocks - 1)
        return size - (self.geometry.block_size - (end - start)) * self.verified[-1]

    def block(self, block: int) -> memoryview:
        """The bytes of one block, writable."""
        start, end = self.geometry.span(block)
        return self.buffer[start:end]

    def accept(self, block: int, digest: str) -> bool:
        """Count a block whose bytes were found to have this SHA-256; False if the manifest says another."""
        self.verified[block] = digest == self.hashes[block]
        return bool(self.verified[block])

    def verify(self, block: int) -> bool:
        """Hash a block that was written, and count it if it is right."""
        return self.accept(block, hashlib.sha256(self.block(block)).hexdigest())

    def populate(self, size: int) -> bool:
        """Have the kernel provide the next `size` bytes' pages now, while there is time; False when nothing is left."""
        if self._populated >= self.geometry.size:
            return False
        start, self._populated = self._populated, self._populated + (size // mmap.PAGESIZE or 1) * mmap.PAGESIZE
        try:
            self._memory.madvise(_MADV_POPULATE_WRITE, start, min(self._populated, self.geometry.size) - start)
        except OSError:  # before Linux 5.14: then pages come as they are written
            self._populated = self.geometry.size
        return True
