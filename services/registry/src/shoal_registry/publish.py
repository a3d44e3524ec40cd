"""What image-builder hands in: releases of images and of Root FS customizations. Pure."""

from collections.abc import Mapping
from datetime import datetime

from pydantic_core import from_json

from shoal_bus.errors import Conflict, Denied, NotFound
from shoal_identity import signatures
from shoal_identity.trust import Trust
from shoal_model.messages import PublishImageRequest, PublishRootfsRequest, SignedManifest
from shoal_model.records import Image, ImageManifest, ImageRelease, Kind, Record, RootfsRelease, Signature
from shoal_model.resolve import Snapshot
from shoal_registry.document import parse_as
from shoal_registry.inventory import Updates
from shoal_registry.problems import Problem, refuse, suggestion


def signed_release(request: PublishImageRequest, trust: Trust | None, at: datetime) -> ImageRelease:
    """The release that a request becomes. Where there is trust, an image key that it names must have signed it.

    Raises Invalid, naming what does not fit, also when the manifest contradicts itself; Denied for its signature.
    """
    signature = _signature(request.manifest, trust)
    return ImageRelease(manifest=_manifest(request), built=at, signature=signature)


def _signature(signed: SignedManifest, trust: Trust | None) -> Signature | None:
    if not signed.key and not signed.signature:
        if trust is None:
            return None
        way_out = "start image-builder with an image key (SHOAL_IMAGE_KEY) that the cluster's ca.crt names"
        raise Denied(f"the manifest is not signed: {way_out}")
    try:
        trusted = (signed.key,) if trust is None else trust.image_keys
        signatures.check(signed.body, signed.key, signed.signature, trusted)
    except signatures.Unsigned as error:
        raise Denied(str(error)) from error
    return parse_as(Signature, {"key": signed.key, "value": signed.signature.hex()}, "manifest")


def _manifest(request: PublishImageRequest) -> ImageManifest:
    try:
        data = from_json(request.manifest.body)
    except ValueError as error:
        raise refuse([Problem("manifest.body", f"is no JSON: {error}")]) from None
    manifest = parse_as(ImageManifest, data, "manifest")
    found = []
    if manifest.body() != request.manifest.body:
        found.append(Problem("manifest.body", "is not written as manifests are (see `ImageManifest.body`)"))
    if manifest.image != request.name:
        found.append(Problem("manifest.image", f"is {manifest.image!r}, but {request.name!r} is to be published"))
    blocks = -(-manifest.squashfs.size // manifest.geometry.block_size)
    if len(manifest.blocks) != blocks:
        size = f"{manifest.squashfs.size} bytes in blocks of {manifest.geometry.block_size}"
        found.append(Problem("manifest.blocks", f"{size} are {blocks} blocks, not {len(manifest.blocks)}"))
    if found:
        raise refuse(found)
    return manifest


def image_release(snapshot: Snapshot, release: ImageRelease) -> Updates:
    """What a release changes. Raises NotFound if its image is not recorded (any more), Conflict if the record changed
    so that this is no build of it.
    """
    name = release.manifest.image
    image = snapshot.cluster.images.get(name)
    if image is None:
        raise _not_recorded(f"image {name!r}", name, snapshot.cluster.images, "it was removed, or never added")
    if (stale := _difference(image, release.manifest)) is not None:
        raise Conflict(f"image {name} was changed since this build began: {stale}; build it again")
    known = snapshot.image_releases.get(name)
    if known is not None and (known.manifest, known.signature) == (release.manifest, release.signature):
        return {}
    return {(Kind.IMAGE_RELEASE, name): release}


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
