"""The registry as image-builder speaks to it: the records of images, and the releases that come of builds."""

from shoal_bus.api import Bus
from shoal_identity.keys import Key
from shoal_identity.signatures import sign
from shoal_image_builder.images.builds import Builds
from shoal_image_builder.threads import in_thread
from shoal_model.messages import Empty, PublishImageRequest, RecordsReply, RecordsRequest, SignedManifest
from shoal_model.records import Image, ImageManifest, ImageRelease, Kind
from shoal_model.subjects import Service, rpc
from shoal_service.store import BlobStore

TIMEOUT = 10.0


class Releases:
    """Publishes builds: signed with `key`, or by nobody where there is none. The newest `keep` of each image stay."""

    def __init__(self, bus: Bus, store: BlobStore, keep: int, key: Key | None) -> None:
        self._bus, self._store, self._keep, self._key = bus, store, keep, key

    async def publish(self, name: str, manifest: ImageManifest) -> list[str]:
        """Make a build what nodes get from now on, then make room: the digests of the builds that had to go."""
        request = PublishImageRequest(name=name, manifest=self._signed(manifest))
        await self._bus.call(rpc(Service.REGISTRY, "publish-image"), request, Empty, timeout=TIMEOUT)
        releases = await _listed(self._bus, Kind.IMAGE_RELEASE)
        in_use = {ImageRelease.model_validate(data).digest for data in releases.values()}
        return await in_thread(lambda _: Builds(self._store).prune(self._keep, in_use))

    def _signed(self, manifest: ImageManifest) -> SignedManifest:
        body = manifest.body()
        if self._key is None:
            return SignedManifest(body=body)
        return SignedManifest(body=body, key=self._key.public, signature=sign(body, self._key))


async def recorded(bus: Bus, name: str) -> Image:
    """The record of an image. NotFound if there is none, Unavailable without a registry."""
    records = await _listed(bus, Kind.IMAGE, name)
    return Image.model_validate(records[name])


async def _listed(bus: Bus, kind: Kind, name: str | None = None) -> dict[str, dict[str, object]]:
    request = RecordsRequest(kind=kind, name=name)
    reply = await bus.call(rpc(Service.REGISTRY, "list"), request, RecordsReply, timeout=TIMEOUT)
    return reply.records
