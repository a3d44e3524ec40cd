"""The place where the image lands: a file whose blocks count only once their hash is right, and who sent wrong ones."""

import contextlib
import hashlib
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from shoal_execd.orders import Manifest
from shoal_mcast.geometry import Geometry
from shoal_mcast.image_file import ImageFile

_SHOWN = 12


class Image(ImageFile):
    """An image file that remembers the latest block that was wrong, and tells of each quarter that is there."""

    def __init__(self, memory: mmap.mmap, geometry: Geometry, hashes: Sequence[str]) -> None:
        super().__init__(memory, geometry, hashes)
        self.wrong: str | None = None
        """`expected <hash>, got <hash> (block <n>)` of the latest block that did not match; None if none did."""
        self.on_quarter: Callable[[int], None] = _nobody
        """Called, from whatever thread, with 25, 50 and 75 (percent)."""

    def accept(self, block: int, digest: str) -> bool:
        """See `ImageFile`."""
        right = super().accept(block, digest)
        if right:
            count, total = self.verified.count(1), len(self.verified)
            before, now = (count - 1) * 4 // total, count * 4 // total
            if before < now < 4:
                self.on_quarter(25 * now)
        else:
            self.wrong = f"expected {self.hashes[block][:_SHOWN]}, got {digest[:_SHOWN]} (block {block})"
        return right

    def whole(self, expected: str) -> bool:
        """Whether the SHA-256 of the whole is this; if not, no block counts any more."""
        got = hashlib.sha256(self.buffer).hexdigest()
        if got == expected:
            return True
        self.wrong = f"expected {expected[:_SHOWN]}, got {got[:_SHOWN]} (the whole)"
        self.verified[:] = bytes(len(self.verified))
        return False


class Slot:
    """One file, kept with its verified blocks for as long as the same image is wanted. Use it in `with`."""

    def __init__(self, path: Path, make_room: Callable[[int], None]) -> None:
        self._path = path
        self._make_room = make_room
        self._manifest: Manifest | None = None
        self._image: Image | None = None
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def open(self, manifest: Manifest) -> Image:
        """The file for this image: the one that is there, or an empty one after `make_room(bytes)`. Raises OSError."""
        if self._image is not None and self._manifest == manifest:
            return self._image
        self._opened.close()
        self._path.unlink(missing_ok=True)
        self._make_room(manifest.size)
        image = self._opened.enter_context(Image.open(self._path, manifest.geometry, manifest.blocks))
        self._manifest, self._image = manifest, image
        return image


def _nobody(percent: int) -> None:
    """Nobody wants to know."""
