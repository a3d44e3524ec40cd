"""An image that nodes may be told to boot and nobody has built: its files lie in the store and hold a few bytes."""

import hashlib

from lab.head import Head
from shoal_bus.credentials import Credentials
from shoal_bus.nats import NatsBus
from shoal_cli.identity.layout import IMAGE, Layout
from shoal_identity import signatures, trust
from shoal_identity.keys import Key
from shoal_model import subjects
from shoal_model.messages import ChangeReply, PublishImageRequest, SignedManifest
from shoal_model.records import ImageManifest
from shoal_model.subjects import Service
from shoal_service.store import BlobStore

_SOME = "0" * 64


async def publish(head: Head, image: str) -> None:
    """Hand a release of a recorded image to the registry, as image-builder: signed with its key."""
    files = Layout(head.state)
    body, signer = _manifest(head, image).body(), Key.read(files.seed(IMAGE))
    signed = SignedManifest(body=body, key=signer.public, signature=signatures.sign(body, signer))
    credentials = Credentials(
        key=Key.read(files.bus_seed(Service.IMAGE_BUILDER)),
        tls=trust.parse(files.trust.read_bytes()).client_context(),
        inbox_prefix=subjects.inbox(Service.IMAGE_BUILDER),
    )
    bus = await NatsBus.connect([head.nats], name="release", credentials=credentials, timeout=20, creates=False)
    try:
        request = PublishImageRequest(name=image, manifest=signed)
        await bus.call(subjects.rpc(Service.REGISTRY, "publish-image"), request, ChangeReply, timeout=20)
    finally:
        await bus.close()


def _manifest(head: Head, image: str) -> ImageManifest:
    store, source, stored = BlobStore(head.state / "store"), head.state.with_name("content"), {}
    for part in ("kernel", "initrd", "squashfs"):
        source.write_text(part)
        digest, size = store.add(source)
        stored[part] = {"sha256": digest, "size": size}
    return ImageManifest.model_validate(
        {
            "image": image, "flavor": "bookworm", "version": "1.0", "identity": _SOME, "content": _SOME,
            "modules": [{"name": "core", "version": "1.0", "sha256": _SOME}], "kernel_version": "6.1.0-25-amd64",
            "blocks": [hashlib.sha256(b"squashfs").hexdigest()], **stored,
        }
    )  # fmt: skip
