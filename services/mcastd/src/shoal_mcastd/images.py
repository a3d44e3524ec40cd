"""The images that can be sent: found by digest in the records or beside the store, mapped into memory."""

import mmap
from pathlib import Path

from shoal_bus.errors import NotFound, Unavailable
from shoal_mcast.geometry import Geometry
from shoal_model import resolve
from shoal_model.records import ImageManifest
from shoal_service.store import BadManifest, BlobStore


def image_of(snapshot: resolve.Snapshot, node: str) -> str | None:
    """The digest of the image that a node boots by its records; None if they do not say."""
    try:
        name = resolve.effective(snapshot.cluster, node).image
    except resolve.Unresolvable:
        return None
    release = snapshot.image_releases.get(name) if name is not None else None
    return None if release is None else release.digest


def manifest_of(snapshot: resolve.Snapshot, store: BlobStore, digest: str) -> ImageManifest:
    """The manifest of a build: from the records, or from the store if a newer build has taken its place there.

    Raises NotFound, and Unavailable for a manifest in the store that cannot be read.
    """
    for release in snapshot.image_releases.values():
        if release.digest == digest:
            return release.manifest
    try:
        return store.manifest(digest)
    except FileNotFoundError as error:
        told = f"no image build has the digest {digest}: neither a release nor {error.filename} names it"
        raise NotFound(told) from None
    except BadManifest as error:
        raise Unavailable(str(error)) from error


class MappedImage:
    """The bytes of an image, as the sender reads them. They stay readable when the file is replaced or removed."""

    def __init__(self, path: Path, manifest: ImageManifest) -> None:
        """Raises Unavailable if this head's store does not hold the image as the manifest says."""
        given = manifest.geometry
        self.digest = manifest.squashfs.sha256
        try:
            self.geometry = Geometry(manifest.squashfs.size, given.symbol_size, given.block_symbols)
            with path.open("rb") as file:
                memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise Unavailable(f"image {self.digest[:12]} cannot be sent from this head: {error}") from error
        if len(memory) != self.geometry.size:
            raise Unavailable(
                f"{path} has {len(memory)} bytes where the manifest says {self.geometry.size}: "
                "this head's store is damaged; build or publish the image again"
            )
        memory.madvise(mmap.MADV_WILLNEED)
        self._bytes = memoryview(memory)

    def read(self, block: int) -> memoryview:
        """The bytes of one block."""
        start, end = self.geometry.span(block)
        return self._bytes[start:end]
