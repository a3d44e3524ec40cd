"""What follows from a change: its events, and builds of the images it touched.

Each replica lets the effects follow the records it sees, in order, whoever committed them, and stores how far it came;
the stream drops what another replica has sent already. So a registry that dies after a commit leaves nothing out.
"""

import asyncio
import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import structlog
from pydantic import BaseModel

from shoal_bus.api import Bus, Store
from shoal_bus.codec import pack, unpack
from shoal_bus.errors import Unavailable
from shoal_model import subjects
from shoal_model.messages import BuildImageJob, Changed, ImagePublished
from shoal_model.records import Image, ImageRelease, compact, record_key
from shoal_model.resolve import Snapshot
from shoal_registry.change import what
from shoal_registry.mirror import Batch, Moved

POSITION = "registry.effects"
"""Key in bucket `state`: the revision of `records` up to which effects were sent."""

_AT_ONCE = 64
_RETRY_SECONDS = 0.5
_LOG = structlog.stdlib.get_logger("shoal.registry")


@dataclass(frozen=True)
class Effect:
    """A message to send once. Work goes into the queue, everything else is an event."""

    subject: str
    message: BaseModel
    id: str
    work: bool = False


def effects(batch: Batch, position: int) -> Iterator[Effect]:
    """The effects of what a batch moved after `position`."""
    for moved in batch.moved:
        if moved.revision > position:
            yield _event(batch, moved)
            yield from _about_images(moved)


def _event(batch: Batch, moved: Moved) -> Effect:
    kind, name = moved.key
    # In the bucket as it was found, older batches have lost their heads.
    author = batch.head.author if moved.revision > batch.head.revision else "unknown"
    happened = "removed" if moved.after is None else "changed" if batch.initial else what(moved.before, moved.after)
    message = Changed(kind=kind, name=name, what=happened, revision=batch.revision, author=author, at=batch.head.at)
    return Effect(subjects.event(kind, name, "changed"), message, f"{record_key(kind, name)}-{moved.revision}")


def _about_images(moved: Moved) -> Iterator[Effect]:
    name = moved.key[1]
    if isinstance(moved.after, Image):
        yield build(name, moved.after)
    elif isinstance(moved.after, ImageRelease):
        published = ImagePublished(name=name, digest=moved.after.digest, at=moved.after.built)
        yield Effect(subjects.event("image", name, "published"), published, f"published-{name}-{moved.revision}")


def build(name: str, image: Image) -> Effect:
    """The job that builds an image as it is recorded; the same image gives the same id."""
    digest = hashlib.sha256(pack({"name": name, "image": compact(image)})).hexdigest()
    return Effect(subjects.job("image", "build"), BuildImageJob(name=name), digest[:32], work=True)


def missing_builds(snapshot: Snapshot, image_keys: Collection[str] | None) -> Iterator[Effect]:
    """Jobs for the images that nothing was built from yet: to be sent at every start, lest one was lost. Where nodes
    trust `image_keys` (None: they trust anybody), also for those whose release is signed by none of these.
    """
    for name, image in snapshot.cluster.images.items():
        release = snapshot.image_releases.get(name)
        if release is None or not _trusted(release, image_keys):
            yield build(name, image)


def _trusted(release: ImageRelease, image_keys: Collection[str] | None) -> bool:
    return image_keys is None or (release.signature is not None and release.signature.key in image_keys)


class Effects:
    """Sends effects, and again until they are stored; keeps the position."""

    def __init__(self, bus: Bus, state: Store) -> None:
        self._bus = bus
        self._state = state
        self._position = 0

    async def begin(self, revision: int) -> None:
        """Read the position, before any change is taken. Where none was stored, what there is counts as sent."""
        stored = await self._stored()
        if stored is None:
            await self._advance(revision)
        else:
            self._position = stored

    async def _stored(self) -> int | None:
        entry = await self._state.get(POSITION)
        return None if entry is None or entry.value is None else int(unpack(entry.value)["revision"])

    async def follow(self, batch: Batch) -> None:
        """Send what follows from a batch."""
        await self.send(effects(batch, self._position))
        if batch.revision > self._position:
            await self._advance(batch.revision)

    async def send(self, wanted: Iterable[Effect]) -> None:
        """Send all, a limited number at a time, each until the server has stored it."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(effect: Effect) -> None:
            try:
                await self._until_stored(effect)
            finally:
                limit.release()

        async with asyncio.TaskGroup() as tasks:
            for effect in wanted:
                await limit.acquire()
                tasks.create_task(one(effect))

    async def _until_stored(self, effect: Effect) -> None:
        while True:
            try:
                if effect.work:
                    await self._bus.enqueue(effect.subject, effect.message, id=effect.id)
                else:
                    await self._bus.emit(effect.subject, effect.message, id=effect.id)
                return
            except Unavailable as error:
                _LOG.warning("registry.effect.retry", subject=effect.subject, reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _advance(self, revision: int) -> None:
        """Store how far we came, unless another replica came further."""
        while True:
            try:
                if (await self._stored() or 0) < revision or revision == 0:
                    await self._state.put(POSITION, pack({"revision": revision}))
                break
            except Unavailable as error:
                _LOG.warning("registry.effect.retry", subject=POSITION, reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
        self._position = revision
