"""image-builder as others meet it, on the bus in memory and on a real nats-server, with the real registry.

What an assembly does is left to the tests of assembly: here a made-up one takes its place.
"""

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

import shoal_registry.service
from lab import image_modules
from lab.image_layers import core, write_module
from lab.nats_server import NatsServer
from shoal_bus.api import Bus, Job
from shoal_bus.errors import Invalid, NotFound
from shoal_bus.fakes import MemoryBus
from shoal_bus.nats import NatsBus
from shoal_bus.streams import JOB_ATTEMPTS
from shoal_identity import signatures
from shoal_identity.keys import Key
from shoal_identity.trust import Trust
from shoal_image_builder import worker
from shoal_image_builder.handlers import Handlers
from shoal_image_builder.images.assemble import Places, Watch
from shoal_image_builder.modules.shelf import MissingModule
from shoal_image_builder.process import Cancelled
from shoal_image_builder.registry import Releases
from shoal_image_builder.worker import Worker, build_id
from shoal_model import messages as m
from shoal_model.records import Image, ImageManifest, ImageRelease, Kind, ModuleVersion, RootfsRelease, StoredFile
from shoal_model.subjects import Service, rpc
from shoal_registry import effects
from shoal_service.store import BlobStore

DOCUMENT: dict[str, Any] = {
    "networks": {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}},
    "images": {"compute": {"flavor": "bookworm", "version": "1.0", "modules": ["core"]}},
    "rootfs": {"demo": {"description": "a tree"}},
}
IMAGE = Image(flavor="bookworm", version="1.0", modules=["core"])
FILE = StoredFile(sha256="a" * 64, size=1)
MANIFEST = ImageManifest(
    image="compute",
    flavor="bookworm",
    version="1.0.0",
    identity="b" * 64,
    content="c" * 64,
    modules=[ModuleVersion(name="core", version="1.0.0", sha256="e" * 64)],
    kernel_version="6.1",
    squashfs=FILE,
    kernel=FILE,
    initrd=FILE,
    blocks=["d" * 64],
)


def now() -> datetime:
    return datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    """A bus on which a registry answers, with one image and one customization recorded."""
    registry_bus: Bus
    ours: Bus
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            whole = MemoryBus()
            registry_bus, ours = whole.client(), whole.client()
        else:
            url = request.getfixturevalue("nats_server").url
            registry_bus = await NatsBus.connect([url], name="registry", timeout=10)
            stack.push_async_callback(registry_bus.close)
            ours = await NatsBus.connect([url], name="image-builder", timeout=10)
            stack.push_async_callback(ours.close)
        await registry_bus.prepare()
        await stack.enter_async_context(_registry(registry_bus))
        await _recorded(ours)
        yield ours


async def _recorded(bus: Bus) -> None:
    apply = m.ApplyRequest(document=DOCUMENT, author="ada")
    await bus.call(rpc(Service.REGISTRY, "apply"), apply, m.ChangeReply, timeout=30)


@asynccontextmanager
async def _registry(bus: Bus, trust: Trust | None = None) -> AsyncIterator[None]:
    ready, stop = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with asyncio.TaskGroup() as tasks:
            await shoal_registry.service.start(bus, tasks, now, "0", trust)
            ready.set()
            await stop.wait()
            raise asyncio.CancelledError

    life = asyncio.create_task(live())
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({life, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        life.result()
    yield
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "modules", tmp_path / "images", tmp_path / "shadow", BlobStore(tmp_path / "store"))


@asynccontextmanager
async def _served(bus: Bus, places: Places, trees: Path) -> AsyncIterator[None]:
    """Handlers and worker, both running."""
    serving = await bus.serve(Service.IMAGE_BUILDER, "0", Handlers(bus, places, trees).endpoints())
    working = asyncio.create_task(_worker(bus, places).run())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await serving.stop()


def _worker(bus: Bus, places: Places, key: Key | None = None) -> Worker:
    releases = Releases(bus, places.store, 3, key)
    return Worker(bus, places, releases, log=structlog.stdlib.get_logger("test"), now=now)


def _job(attempt: int, ends: list[str]) -> Job[m.BuildImageJob]:
    """A job that writes down how it ended."""

    async def say(word: str) -> None:
        ends.append(word)

    return Job(
        worker.BUILD,
        m.BuildImageJob(name="compute"),
        "j1",
        attempt,
        done=lambda: say("done"),
        again=lambda _: say("again"),
        still_working=lambda: say("alive"),
    )


async def _until_done(bus: Bus, job: str) -> tuple[list[m.JobProgress], m.JobDone]:
    async with asyncio.timeout(20):
        async with bus.events(f"evt.job.{job}.done", m.JobDone, since=0) as ends:
            _, _, done = await anext(ends)
        steps: list[m.JobProgress] = []
        async with bus.events(f"evt.job.{job}.progress", m.JobProgress, since=0) as progress:
            async for _, _, step in progress:
                steps.append(step)
                if step.fraction == 1.0 or done.status is m.Status.FAILED:
                    break
    return steps, done


async def test_a_build_tells_its_steps_and_is_published(
    bus: Bus, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assemble(name: str, image: Image, _: Places, watch: Watch) -> ImageManifest:
        assert (name, image) == ("compute", IMAGE)
        watch.step("look", 0.0)
        watch.step("done", 1.0)
        return MANIFEST

    monkeypatch.setattr(worker, "assemble", assemble)
    async with _served(bus, places, tmp_path):
        # Recording the image has put the job into the queue already; asking joins it, or has it done again.
        asked = m.BuildRequest(name="compute")
        reply = await bus.call(rpc(Service.IMAGE_BUILDER, "build"), asked, m.BuildReply)
        steps, done = await _until_done(bus, reply.job)
        assert [step.step for step in steps][:2] == ["look", "done"]
        assert (done.status, done.digest, done.image) == (m.Status.OK, "a" * 64, "compute")
        assert await _release(bus) == ImageRelease(manifest=MANIFEST, built=now())


async def _release(bus: Bus) -> ImageRelease:
    listing = m.RecordsRequest(kind=Kind.IMAGE_RELEASE)
    releases = await bus.call(rpc(Service.REGISTRY, "list"), listing, m.RecordsReply)
    return ImageRelease.model_validate(releases.records["compute"])


async def test_a_build_that_was_there_already_is_published_anew_with_the_image_key(
    bus: Bus, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "assemble", lambda *_: MANIFEST)
    key = Key.new()
    for by in (None, key):
        await _worker(bus, places, by).work(_job(1, []))
    release = await _release(bus)
    assert release.signature is not None
    value = bytes.fromhex(release.signature.value)
    signatures.check(MANIFEST.body(), release.signature.key, value, [key.public])
    async with asyncio.timeout(20), bus.events("evt.image.compute.published", m.ImagePublished, since=0) as told:
        assert [(await anext(told))[2].digest for _ in range(2)] == ["a" * 64] * 2


async def test_a_builder_does_not_run_with_an_image_key_that_others_may_read(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    key, file = Key.new(), tmp_path / "image.key"
    key.write(file)
    file.chmod(0o644)
    registry = await NatsBus.connect([nats_server.url], name="registry", timeout=10)
    await registry.prepare()
    await registry.close()
    environment = {**os.environ, "SHOAL_NATS": nats_server.url, "SHOAL_STATE": str(tmp_path)}
    command = [str(image_modules.BUILDER), "--image-key", str(file), "--metrics", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.PIPE)
    try:
        async with asyncio.timeout(30):
            _, log = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 1
    assert f"SHOAL_IMAGE_KEY (--image-key): the key {file} may be read by others: `chmod 600 {file}`" in log.decode()
    assert key.seed not in log.decode()


async def test_a_build_whose_signature_the_registry_denies_has_failed(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "assemble", lambda *_: MANIFEST)
    bus, ends = MemoryBus(), list[str]()
    async with _registry(bus, Trust("", (Key.new().public,))):
        await _recorded(bus)
        await _worker(bus, places).work(_job(1, ends))
    async with asyncio.timeout(20), bus.events("evt.job.j1.done", m.JobDone, since=0) as told:
        done = (await anext(told))[2]
    assert (ends[-1], done.status) == ("done", m.Status.FAILED)
    assert "start image-builder with an image key (SHOAL_IMAGE_KEY)" in (done.reason or "")


async def test_a_build_that_cannot_succeed_says_why_and_is_not_repeated(
    bus: Bus, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def assemble(name: str, _: Image, __: Places, watch: Watch) -> ImageManifest:
        calls.append(name)
        watch.step("look at the modules", 0.0)
        raise MissingModule("build it with: shoal-image-builder build-module core")

    monkeypatch.setattr(worker, "assemble", assemble)
    async with _served(bus, places, tmp_path):
        steps, done = await _until_done(bus, build_id("compute", IMAGE))
        await asyncio.sleep(0.2)
    assert (done.status, done.digest) == (m.Status.FAILED, None)
    assert done.reason == "build it with: shoal-image-builder build-module core"
    assert steps[0].step == "look at the modules"
    assert calls == ["compute"]


async def test_a_build_that_meets_the_unexpected_fails_alone(
    bus: Bus, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assemble(_: str, __: Image, ___: Places, watch: Watch) -> ImageManifest:
        watch.step("look at the modules", 0.0)
        raise UnicodeDecodeError("utf-8", b"\xf6", 0, 1, "invalid start byte")

    monkeypatch.setattr(worker, "assemble", assemble)
    async with _served(bus, places, tmp_path):
        _, done = await _until_done(bus, build_id("compute", IMAGE))
    assert done.status is m.Status.FAILED
    assert "invalid start byte" in (done.reason or "")


async def test_a_worker_that_stops_gives_its_build_up(
    bus: Bus, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def assemble(_: str, __: Image, ___: Places, watch: Watch) -> ImageManifest:
        loop.call_soon_threadsafe(started.set)
        try:
            while True:
                watch.cancel.check()
                threading.Event().wait(0.01)
        except Cancelled:
            ended.set()
            raise

    monkeypatch.setattr(worker, "assemble", assemble)
    async with asyncio.timeout(20):
        async with _served(bus, places, tmp_path):
            await started.wait()
    assert ended.is_set()


async def _alone(places: Places, attempt: int) -> tuple[list[str], list[m.JobDone]]:
    """What a worker does with a job, and tells of it, while no registry answers."""
    alone, ends = MemoryBus(), list[str]()
    await _worker(alone, places).work(_job(attempt, ends))
    await alone.emit("evt.job.j1.done", m.JobDone(job="j1", image="compute", status=m.Status.OK, at=now()))
    told: list[m.JobDone] = []
    async with alone.events("evt.job.j1.done", m.JobDone, since=0) as events:
        async for _, _, done in events:
            if done.status is m.Status.OK:
                break
            told.append(done)
    return [word for word in ends if word != "alive"], told


@pytest.mark.parametrize(("attempt", "statuses"), [(1, []), (JOB_ATTEMPTS, [m.Status.FAILED])])
async def test_what_only_the_bus_lacked_is_tried_again_and_told_in_the_end(
    places: Places, attempt: int, statuses: list[m.Status]
) -> None:
    ends, told = await _alone(places, attempt)
    assert ends == ["again"]
    assert [done.status for done in told] == statuses


async def test_a_build_on_which_its_workers_died_is_not_tried_again_but_told(places: Places) -> None:
    ends, told = await _alone(places, JOB_ATTEMPTS + 1)
    assert ends == ["done"]
    assert [(done.job, done.image, done.status) for done in told] == [("j1", "compute", m.Status.FAILED)]
    assert told[0].reason == (
        "image-builder ended in the middle of this build 5 times: see its log, then `shoal image build compute`"
    )


async def test_an_image_that_is_not_recorded_is_not_found(bus: Bus, places: Places, tmp_path: Path) -> None:
    async with _served(bus, places, tmp_path):
        with pytest.raises(NotFound):
            await bus.call(rpc(Service.IMAGE_BUILDER, "build"), m.BuildRequest(name="other"), m.BuildReply)


async def test_a_customization_is_committed(bus: Bus, places: Places, tmp_path: Path) -> None:
    tree = tmp_path / "root-fs/demo/etc"
    tree.mkdir(parents=True)
    (tree / "motd").write_text("hello\n")
    async with _served(bus, places, tmp_path / "root-fs"):
        request = m.CommitRootfsRequest(name="demo")
        commit = rpc(Service.IMAGE_BUILDER, "commit-rootfs")
        first = await bus.call(commit, request, m.CommitRootfsReply)
        assert await bus.call(commit, request, m.CommitRootfsReply) == first
        assert (first.files, places.store.has(first.archive.sha256)) == (2, True)
        listing = m.RecordsRequest(kind=Kind.ROOTFS_RELEASE)
        releases = await bus.call(rpc(Service.REGISTRY, "list"), listing, m.RecordsReply)
        assert RootfsRelease.model_validate(releases.records["demo"]).archive == first.archive
        with pytest.raises(Invalid, match=r"there is no directory .*/other: make it"):
            await bus.call(commit, m.CommitRootfsRequest(name="other"), m.CommitRootfsReply)


async def test_modules_are_listed_and_a_damaged_one_is_named(bus: Bus, places: Places, tmp_path: Path) -> None:
    module = write_module(places.modules, core())
    modules = rpc(Service.IMAGE_BUILDER, "modules")
    async with _served(bus, places, tmp_path):
        reply = await bus.call(modules, m.Empty(), m.ModulesReply)
        assert [(each.name, each.version, each.sha256) for each in reply.modules] == [("core", "1.0.0", module.sha256)]
        module.package.write_bytes(module.package.read_bytes()[:100])
        with pytest.raises(Invalid, match=module.package.name):
            await bus.call(modules, m.Empty(), m.ModulesReply)


def test_the_registry_gives_a_build_the_same_id() -> None:
    for image in (IMAGE, IMAGE.model_copy(update={"description": "x", "modules": ["core", "slurm"]})):
        assert build_id("compute", image) == effects.build("compute", image).id
