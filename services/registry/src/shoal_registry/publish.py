"""What image-builder hands in: releases of images and of Root FS customizations. Pure."""

from collections.abc import Mapping
from datetime import datetime

from shoal_bus.errors import Conflict, NotFound
from shoal_model.messages import PublishImageRequest, PublishRootfsRequest
from shoal_model.records import Image, ImageManifest, ImageRelease, Kind, Record, RootfsRelease
from shoal_model.resolve import Snapshot
from shoal_registry.document import parse_as
from shoal_registry.inventory import Updates
from shoal_registry.problems import Problem, refuse, suggestion


def image_manifest(request: PublishImageRequest) -> ImageManifest:
    """The manifest in a request. Raises Invalid, naming what does not fit, also when it contradicts itself."""
    manifest = parse_as(ImageManifest, request.manifest, "manifest")
    found = []
    if manifest.image != request.name:
        found.append(Problem("manifest.image", f"is {manifest.image!r}, but {request.name!r} is to be published"))
    blocks = -(-manifest.squashfs.size // manifest.geometry.block_size)
    if len(manifest.blocks) != blocks:
        size = f"{manifest.squashfs.size} bytes in blocks of {manifest.geometry.block_size}"
        found.append(Problem("manifest.blocks", f"{size} are {blocks} blocks, not {len(manifest.blocks)}"))
    if found:
        raise refuse(found)
    return manifest


def image_release(snapshot: Snapshot, manifest: ImageManifest, at: datetime) -> Updates:
    """The release that a manifest becomes. Raises NotFound if the image is not recorded (any more), Conflict if its
    record changed so that this is no build of it.
    """
    name = manifest.image
    image = snapshot.cluster.images.get(name)
    if image is None:
        raise _not_recorded(f"image {name!r}", name, snapshot.cluster.images, "it was removed, or never added")
    if (stale := _difference(image, manifest)) is not None:
        raise Conflict(f"image {name} was changed since this build began: {stale}; build it again")
    known = snapshot.image_releases.get(name)
    if known is not None and known.manifest == manifest:
        return {}
    return {(Kind.IMAGE_RELEASE, name): ImageRelease(manifest=manifest, built=at)}


def _difference(image: Image, manifest: ImageManifest) -> str | None:
    if image.flavor != manifest.flavor:
        return f"its flavor is {image.flavor}, the build's {manifest.flavor}"
    missing = set(image.modules) - {module.name for module in manifest.modules}
    return f"the build lacks {', '.join(sorted(missing))}" if missing else None


def rootfs_release(snapshot: Snapshot, request: PublishRootfsRequest, at: datetime) -> Updates:
    """The release that a committed tree becomes. Raises NotFound if the customization is not recorded."""
    name = request.name
    if name not in snapshot.cluster.rootfs:
        advice = f"add it first: `shoal rootfs add {name}`"
        raise _not_recorded(f"Root FS customization {name!r}", name, snapshot.cluster.rootfs, advice)
    known = snapshot.rootfs_releases.get(name)
    if known is not None and (known.archive, known.files) == (request.archive, request.files):
        return {}
    return {(Kind.ROOTFS_RELEASE, name): RootfsRelease(archive=request.archive, files=request.files, committed=at)}


def _not_recorded(what: str, name: str, known: Mapping[str, Record], advice: str) -> NotFound:
    hint = suggestion(name, known)
    return NotFound(f"there is no {what}" + (f"; {hint}" if hint else "") + f"; {advice}")
