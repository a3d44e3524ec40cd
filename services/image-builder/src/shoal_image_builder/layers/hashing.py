"""Reading through a SHA-256."""

import hashlib

from shoal_image_builder.layers.tar import Readable

_CHUNK = 1 << 20


class Hashing:
    """Passes reads through and remembers the SHA-256 of what went by."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes of the source; none at its end."""
        chunk = self._source.read(size)
        self._hash.update(chunk)
        return chunk

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_CHUNK):
            pass

    @property
    def digest(self) -> str:
        """SHA-256 of what was read so far."""
        return self._hash.hexdigest()
