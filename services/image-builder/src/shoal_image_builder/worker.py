"""The worker: takes builds from the queue one after the other, tells how they go, publishes what came out."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import Counter, Histogram
from structlog.stdlib import BoundLogger

from shoal_bus.api import Bus, Job
from shoal_bus.codec import pack
from shoal_bus.errors import BusError, Denied, Invalid, NotFound
from shoal_bus.streams import JOB_ATTEMPTS
from shoal_image_builder.images.assemble import Places, Watch, assemble
from shoal_image_builder.images.squashfs import NotWhatWasPacked
from shoal_image_builder.layers.entry import LayerError
from shoal_image_builder.modules.shelf import MissingModule
from shoal_image_builder.process import Cancel, CommandFailed
from shoal_image_builder.registry import TIMEOUT, Releases, recorded
from shoal_image_builder.threads import in_thread
from shoal_model.messages import BuildImageJob, JobDone, JobProgress, Status
from shoal_model.records import Image, ImageManifest, compact
from shoal_model.subjects import event, job

BUILD = job("image", "build")
_SIGN_OF_LIFE = 15.0
"""Seconds between telling the queue that a build still runs; it gives a silent one to another worker after a minute."""
_RETRY = 5.0
_STEPS = 64
"""More than an assembly has."""
_ABANDONED = (
    "image-builder ended in the middle of this build {times} times: see its log, then `shoal image build {name}`"
)
_SECONDS = Histogram("shoal_image_build_seconds", "Time of a build", buckets=(1, 2, 5, 10, 20, 40, 80, 160, 320))
_BUILDS = Counter("shoal_image_builds", "Builds by how they ended", ["status"])
_REFUSALS = (MissingModule, LayerError, NotWhatWasPacked, CommandFailed, OSError)
"""What makes a build fail; trying again would change nothing."""


@dataclass(frozen=True)
class Step:
    """What a build is doing now."""

    name: str
    fraction: float


class Worker:
    """Works on builds until cancelled."""

    def __init__(
        self, bus: Bus, places: Places, releases: Releases, *, log: BoundLogger, now: Callable[[], datetime]
    ) -> None:
        self._bus, self._places, self._releases, self._log, self._now = bus, places, releases, log, now

    async def run(self) -> None:
        """Take jobs, one by one."""
        async with self._bus.work(BUILD, BuildImageJob) as jobs:
            async for each in jobs:
                await self.work(each)

    async def work(self, each: Job[BuildImageJob]) -> None:
        """One job to its end: done, or again where only the bus or the registry was missing."""
        name = each.message.name
        log = self._log.bind(job=each.id, image=name, attempt=each.attempt)
        log.info("image.build")
        token = secrets.token_hex(8)  # the same job done anew tells of new events
        if each.attempt > JOB_ATTEMPTS:
            log.error("image.abandoned")
            reason = _ABANDONED.format(times=JOB_ATTEMPTS, name=name)
            await self._tell_done(token, self._done(each, Status.FAILED, reason=reason))
            await each.done()
            return
        try:
            async with _alive(each):
                with _SECONDS.time():
                    manifest = await self._build(each, token)
                removed = await self._releases.publish(name, manifest)
                if removed:
                    log.info("image.pruned", digests=removed)
            done = self._done(each, Status.OK, digest=manifest.squashfs.sha256)
        except _REFUSALS as error:
            done = self._done(each, Status.FAILED, reason=str(error))
        except (Invalid, Denied, NotFound) as error:
            done = self._done(each, Status.FAILED, reason=str(error))
        except BusError as error:
            log.warning("image.build_again", error=str(error), seconds=_RETRY)
            if each.attempt >= JOB_ATTEMPTS:
                await self._tell_done(token, self._done(each, Status.FAILED, reason=str(error)))
            await each.again(_RETRY)
            return
        except Exception as error:  # whatever a tree or a package can think of: one build fails, the worker goes on
            log.exception("image.unexpected")
            reason = f"unexpected: {error!r}; the log of image-builder tells where"
            done = self._done(each, Status.FAILED, reason=reason)
        log.info("image.built" if done.status is Status.OK else "image.failed", reason=done.reason, digest=done.digest)
        await self._tell_done(token, done)
        await each.done()

    async def _build(self, each: Job[BuildImageJob], token: str) -> ImageManifest:
        name = each.message.name
        image = await recorded(self._bus, name)
        steps: asyncio.Queue[Step | None] = asyncio.Queue(_STEPS)
        loop = asyncio.get_running_loop()

        def step(what: str, fraction: float) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, Step(what, fraction))

        def build(cancel: Cancel) -> ImageManifest:
            return assemble(name, image, self._places, Watch(cancel, step))

        async with self._telling(each, token, steps):
            return await in_thread(build)

    @asynccontextmanager
    async def _telling(
        self, each: Job[BuildImageJob], token: str, steps: asyncio.Queue[Step | None]
    ) -> AsyncIterator[None]:
        """Tell of the steps put into the queue; at the end, of those left."""
        telling = asyncio.create_task(self._tell_steps(each, token, steps))
        try:
            yield
        except asyncio.CancelledError:
            telling.cancel()
            raise
        finally:
            steps.put_nowait(None)
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell_steps(self, each: Job[BuildImageJob], token: str, steps: asyncio.Queue[Step | None]) -> None:
        number = 0
        while (step := await steps.get()) is not None:
            number += 1
            told = JobProgress(
                job=each.id, image=each.message.name, step=step.name, at=self._now(), fraction=step.fraction
            )
            await self._tell(event("job", each.id, "progress"), told, f"{token}-{number}")

    async def _tell_done(self, token: str, done: JobDone) -> None:
        _BUILDS.labels(done.status).inc()
        await self._tell(event("job", done.job, "done"), done, f"{token}-done")

    async def _tell(self, subject: str, message: JobProgress | JobDone, identity: str) -> None:
        """An event about a job. One that cannot be stored is logged: the work itself counts."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._bus.emit(subject, message, id=identity)
        except (BusError, TimeoutError) as error:
            self._log.warning("image.untold", subject=subject, error=str(error))

    def _done(
        self, each: Job[BuildImageJob], status: Status, *, reason: str | None = None, digest: str | None = None
    ) -> JobDone:
        return JobDone(
            job=each.id, image=each.message.name, status=status, reason=reason, digest=digest, at=self._now()
        )


def build_id(name: str, image: Image) -> str:
    """The id of the job that builds an image as it is recorded; the registry makes the same of the same."""
    return hashlib.sha256(pack({"name": name, "image": compact(image)})).hexdigest()[:32]


@asynccontextmanager
async def _alive(each: Job[BuildImageJob]) -> AsyncIterator[None]:
    """Tell the queue that the job is being worked on, for as long as this lasts."""

    async def beat() -> None:
        while True:
            await each.still_working()
            await asyncio.sleep(_SIGN_OF_LIFE)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
