"""The images that this head can serve: those of the records, and earlier builds in its store."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from shoal_model.records import ImageManifest
from shoal_model.resolve import Snapshot
from shoal_service.store import BadManifest, BlobStore
from shoal_tftp.files import NotServed


class Images:
    """Finds images by name or by digest."""

    def __init__(self, snapshot: Callable[[], Snapshot], store: BlobStore) -> None:
        self._snapshot = snapshot
        self._store = store

    async def manifest(self, image: str) -> ImageManifest:
        """The manifest of an image's release of now, or, by digest, of any build in the store. Raises NotServed.

        A node that got its script before a new release came must still get the kernel of the old one.
        """
        releases = self._snapshot().image_releases
        if image in releases:
            return releases[image].manifest
        for release in releases.values():
            if release.digest == image:
                return release.manifest
        try:
            return await asyncio.to_thread(self._store.manifest, image)
        except (FileNotFoundError, ValueError):
            raise NotServed(f"there is no image {image} with a release, and no build of that digest") from None
        except BadManifest as error:
            raise NotServed(str(error), worth_a_log=True) from error

    async def squashfs(self, digest: str) -> Path:
        """Where the squashfs with this digest is, if an image has it. Raises NotServed."""
        manifest = await self.manifest(digest)
        if manifest.squashfs.sha256 != digest:
            raise NotServed(f"{digest} is no digest of an image")
        return await self.file(manifest, digest)

    async def file(self, manifest: ImageManifest, digest: str) -> Path:
        """Where a file of this image is. Raises NotServed if this head has it not."""
        reason = await self.missing(manifest.image, digest)
        if reason is not None:
            raise NotServed(reason, worth_a_log=True)
        return self._store.path(digest)

    async def missing(self, image: str, *digests: str) -> str | None:
        """Which of these files of an image this head has not, in words; None: it has them."""
        for digest in digests:
            if not await asyncio.to_thread(self._store.has, digest):
                root = self._store.root
                return f"image {image} is released, but its file {digest[:12]} is not in the store {root} of this head"
        return None
