"""execd-config and execd over a real bus: what is previewed is what the node writes, to the last byte."""

import asyncio
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from lab.keys import public_key
from lab.nats_server import NatsServer
from shoal_bus.connection import Connection, connect
from shoal_bus.errors import Conflict, NotFound
from shoal_bus.nats import NatsBus
from shoal_execd import configure
from shoal_execd.configure import Configurator, Outcome, await_options
from shoal_execd.journal import Journal
from shoal_execd.node_options import Action
from shoal_execd.node_options import Options as NodeSide
from shoal_execd.pauses import Pauses
from shoal_execd.timeline import Timeline
from shoal_execd_config import options as options_module
from shoal_execd_config.handlers import Options
from shoal_model import subjects
from shoal_model.messages import BootEvent, NodeOptions, PreviewReply, PreviewRequest
from shoal_model.records import Cluster, Kind, RootfsRelease, StoredFile
from shoal_model.resolve import Snapshot
from shoal_model.subjects import Service, Stage
from shoal_service.store import BlobStore

PREVIEW = subjects.rpc(Service.EXECD_CONFIG, "preview")


def tree() -> bytes:
    """A customization: a file over one of the options, a script, a link; owned by whoever runs the test."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, mode, content, target in (
            ("lib", tarfile.DIRTYPE, 0o755, b"", ""),
            ("lib/shoal/init.d/10-site", tarfile.REGTYPE, 0o750, b"#!/bin/sh\n", ""),
            ("etc/hostname", tarfile.REGTYPE, 0o644, b"overridden\n", ""),
            ("etc/localtime", tarfile.SYMTYPE, 0o777, b"", "../usr/share/zoneinfo/UTC"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(content), target
            info.uid, info.gid = os.getuid(), os.getgid()
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Head:
    """execd-config over the real bus, with records that a test may change."""

    def __init__(self, bus: NatsBus, store: BlobStore, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.service = Options(bus, lambda: self.snapshot, store, structlog.get_logger())

    def change(self, name: str, /, **fields: object) -> None:
        cluster = self.snapshot.cluster
        node = cluster.nodes[name].model_copy(update=fields)
        changed = cluster.model_copy(update={"nodes": {**cluster.nodes, name: node}})
        self.snapshot = Snapshot(changed, {}, self.snapshot.rootfs_releases)
        self.service.record_changed(Kind.NODE, name)


@asynccontextmanager
async def door(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/blobs/{digest}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def head(bus: NatsBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Head]:
    archive = tree()
    store = BlobStore(tmp_path / "store")
    (tmp_path / "site.tar").write_bytes(archive)
    digest, size = store.add(tmp_path / "site.tar")
    cluster = Cluster.model_validate(
        {
            "networks": {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}},
            "rootfs": {"site": {}, "empty": {}},
            "nodes": {
                "n001": {
                    "mac": "52:54:00:77:00:11",
                    "address": "10.77.0.11",
                    "rootfs": ["site"],
                    "authorized_keys": [public_key(f"k{number}", octets=1400) for number in range(60)],
                },
                "n002": {"mac": "52:54:00:77:00:12", "address": "10.77.0.12", "rootfs": ["empty"]},
            },
        }
    )
    release = RootfsRelease(
        archive=StoredFile(sha256=digest, size=size), files=4, committed=datetime(2026, 1, 1, tzinfo=UTC)
    )
    head = Head(bus, store, Snapshot(cluster, {}, {"site": release}))
    async with door(head.service.blob) as contents, door(store.serve) as blobs:
        monkeypatch.setattr(options_module, "sources", lambda *_: [contents, blobs])
        await bus.serve(Service.EXECD_CONFIG, "0.1.0", head.service.endpoints)
        yield head


@pytest.fixture
async def node(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect([nats_server.url], name="n001", timeout=10)
    yield connection
    await connection.close()


def configurator(tmp_path: Path) -> Configurator:
    for folder in ("root/usr/lib", "run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "root/lib").symlink_to("usr/lib")

    def take(action: Action, root: Path) -> None:
        assert action.verb in ("hostname", "directory", "ssh-host-keys")

    return Configurator(tmp_path / "root", tmp_path / "run", "n001", Journal("stage2", []), lambda seconds: None, take)


async def test_what_is_previewed_is_what_the_node_writes(
    head: Head, bus: NatsBus, node: Connection, tmp_path: Path
) -> None:
    shown = await bus.call(PREVIEW, PreviewRequest(node="n001"), PreviewReply)
    received: NodeSide = await await_options(node, Timeline("n001", "b1", Journal("stage2", [])))
    assert any(file.content is None for file in received.files), "the keys are too large for a message"
    side = configurator(tmp_path)
    outcome: Outcome = await asyncio.to_thread(side.apply, received)
    assert outcome.failures == []
    assert received.generation == shown.generation == (tmp_path / "run/generation").read_text().strip()
    root = tmp_path / "root"
    assert {file.path for file in shown.files if file.origin == "site"} == {
        "/lib",
        "/lib/shoal/init.d/10-site",
        "/etc/hostname",
        "/etc/localtime",
    }
    for file in shown.files:
        path = root / file.path.lstrip("/")
        if file.kind == "symlink":
            assert os.readlink(path) == file.target
        elif file.kind == "file":
            content = path.read_bytes()
            assert content == file.content
            assert hashlib.sha256(content).hexdigest() == file.sha256
            assert stat.S_IMODE(path.stat().st_mode) == file.mode
            assert (path.stat().st_uid, path.stat().st_gid) == (file.uid, file.gid)
    written = {f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file() or path.is_symlink()}
    assert {f"/usr{file.path}" if file.path.startswith("/lib/") else file.path for file in shown.files} == written


async def test_a_node_that_waits_gets_its_options_once_the_records_say_enough(
    head: Head, bus: NatsBus, node: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configure, "Pauses", lambda **_: Pauses(first=600.0, longest=600.0))  # it does not ask again
    served: list[NodeOptions] = []

    async def listen(_: str, message: NodeOptions) -> None:
        served.append(message)

    supplier = asyncio.create_task(head.service.supply_waiting())
    await await_options(node, Timeline("n001", "b1", Journal("stage2", [])))
    await bus.subscribe("node.n001.options", NodeOptions, listen)
    told = asyncio.Event()
    timeline = Timeline("n002", "b2", Journal("stage2", [lambda _: told.set()]))
    waiting = asyncio.create_task(await_options(node, timeline))
    try:
        async with asyncio.timeout(10):
            await told.wait()
            head.change("n002", description="nothing that helps")
            await asyncio.sleep(0.5)
            assert not waiting.done()
            head.change("n001", name="changed")  # it has its options: nobody listens there any more
            head.change("n002", rootfs=[], name="first")
            head.change("n002", name="newest")
            options = await waiting
    finally:
        waiting.cancel()
        supplier.cancel()
    assert [file.content for file in options.files if file.path == "/etc/hostname"] == [b"newest\n"]
    assert served == []


async def test_what_cannot_be_previewed_is_named(head: Head, bus: NatsBus) -> None:
    with pytest.raises(NotFound, match="n009"):
        await bus.call(PREVIEW, PreviewRequest(node="n009"), PreviewReply)
    with pytest.raises(Conflict, match=r"'empty'.*committed"):
        await bus.call(PREVIEW, PreviewRequest(node="n002"), PreviewReply)


async def test_without_a_store_of_its_own_the_preview_fetches_archives(
    head: Head, bus: NatsBus, tmp_path: Path
) -> None:
    head.service._store = BlobStore(tmp_path / "elsewhere")
    shown = await bus.call(PREVIEW, PreviewRequest(node="n001"), PreviewReply)
    assert any(file.path == "/lib/shoal/init.d/10-site" and file.content == b"#!/bin/sh\n" for file in shown.files)


async def test_the_reason_why_no_options_come_is_in_the_timeline(node: Connection) -> None:
    timeline = Timeline("n001", "b1", Journal("stage2", []))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await await_options(node, timeline)
    event = next(message for subject, message in timeline.rest() if subject.startswith("evt.boot."))
    assert (event["stage"], event["status"]) == ("execd.options", "degraded")
    assert "rpc.execd-config.v1.announce.n001" in event["reason"]


async def test_a_bus_that_restarts_loses_no_event_and_doubles_none(
    bus: NatsBus, nats_server: NatsServer, node: Connection
) -> None:
    timeline = Timeline("n001", "b1", Journal("stage1", []))
    stages = [Stage.STAGE1_START, Stage.STAGE1_BUS, Stage.IMAGE_SOURCE, Stage.IMAGE_RECEIVED]
    async with timeline.carried(node, 20.0):
        timeline.event(stages[0])
        timeline.event(stages[1])
        await asyncio.to_thread(nats_server.kill)
        timeline.event(stages[2])
        await asyncio.to_thread(nats_server.start)
        timeline.event(stages[3])
    got: list[Stage] = []
    async with asyncio.timeout(20), bus.events("evt.boot.n001.>", BootEvent, since=0) as events:
        async for _, _, event in events:
            got.append(event.stage)
            if event.stage == stages[-1]:
                break
    assert sorted(got) == sorted(stages)
    assert timeline.rest() == []
