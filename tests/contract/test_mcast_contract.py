"""What mcastd answers is what the node's library reads, field for field; and mcastd itself on the bus in memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.stdlib import get_logger

from shoal_bus import codec
from shoal_bus.api import Write
from shoal_bus.errors import NotFound, Unavailable
from shoal_bus.fakes import MemoryBus
from shoal_mcast.session import Join
from shoal_mcastd.handlers import Handlers
from shoal_mcastd.sessions import Head, Sessions
from shoal_mcastd.settings import Settings
from shoal_model.messages import Empty, JoinReply, JoinRequest, LeaveRequest, SessionInfo, SessionsReply
from shoal_model.records import Geometry, ImageManifest, ImageRelease, Kind, Network, Node, compact, record_key
from shoal_service.records import RecordsView
from shoal_service.store import BlobStore

CONTENT = bytes(range(256)) * 40


def test_every_field_of_a_join_is_in_the_reply() -> None:
    reply = JoinReply(
        session=7, source="10.77.0.1", group="239.77.1.2", port=17081, control_port=4000, receiver=9, size=10_000,
        symbol_size=64, block_symbols=16, http="http://10.77.0.1:8081/blobs/x",
    )  # fmt: skip
    join = Join.from_map(codec.unpack(codec.encode(reply)))
    assert {field.name: getattr(join, field.name) for field in fields(Join)} == reply.model_dump(exclude={"http"})


def _manifest(digest: str) -> ImageManifest:
    file = {"sha256": digest, "size": len(CONTENT)}
    geometry = Geometry(symbol_size=64, block_symbols=16)
    blocks = [hashlib.sha256(CONTENT[at : at + 1024]).hexdigest() for at in range(0, len(CONTENT), 1024)]
    return ImageManifest.model_validate(
        {
            "image": "compute", "flavor": "bookworm", "version": "1.0", "identity": digest, "content": digest,
            "modules": [], "kernel_version": "6.1", "squashfs": file, "kernel": file, "initrd": file,
            "geometry": geometry, "blocks": blocks,
        }
    )  # fmt: skip


@pytest.fixture
def digest(tmp_path: Path) -> str:
    (tmp_path / "squashfs").write_bytes(CONTENT)
    return BlobStore(tmp_path / "store").add(tmp_path / "squashfs")[0]


@pytest.fixture
async def bus(digest: str, tmp_path: Path) -> AsyncIterator[MemoryBus]:
    """A client of a bus on which mcastd answers, sending from loopback."""
    bus = MemoryBus()
    store = await bus.store("records")
    release = ImageRelease(manifest=_manifest(digest), built=datetime.now(UTC))
    boot = Network(cidr="127.0.0.0/8", head="127.0.0.1", boot=True)
    node = Node(mac="52:54:00:77:00:11", address="127.0.0.1")
    records = [
        (Kind.NETWORK, "boot", boot), (Kind.NODE, "n001", node), (Kind.NODE, "n002", node),
        (Kind.IMAGE_RELEASE, "compute", release),
    ]  # fmt: skip
    await store.commit(
        [Write(record_key(kind, name), codec.pack(compact(record))) for kind, name, record in records]
        + [Write("head", codec.pack({"revision": 1}))]
    )
    settings = Settings(state=tmp_path, gather=1.0)
    async with RecordsView.open(bus) as view, asyncio.TaskGroup() as tasks:
        head = Head(
            bus, tasks, view, BlobStore(settings.image_store), settings, get_logger("test"), lambda: datetime.now(UTC)
        )
        sessions = Sessions(head)
        running = tasks.create_task(sessions.run())
        await bus.serve("mcastd", "1.0.0", Handlers(sessions).endpoints())
        yield bus.client()
        running.cancel()


async def _join(bus: MemoryBus, node: str, image: str, boot: str = "b1") -> JoinReply:
    request = JoinRequest(boot=boot, image=image, address="127.0.0.1")
    return await bus.call(f"rpc.mcastd.v1.join.{node}", request, JoinReply)


async def _sessions(bus: MemoryBus) -> list[SessionInfo]:
    return (await bus.call("rpc.mcastd.v1.sessions", Empty(), SessionsReply)).sessions


async def test_nodes_that_want_the_same_image_get_the_same_session(bus: MemoryBus, digest: str) -> None:
    first, second = await _join(bus, "n001", digest), await _join(bus, "n002", digest)
    assert first.receiver != second.receiver
    assert first.model_dump(exclude={"receiver"}) == second.model_dump(exclude={"receiver"})
    again = await _join(bus, "n001", digest, boot="b2")
    assert again.session == first.session
    assert again.receiver != first.receiver
    (info,) = await _sessions(bus)
    assert (info.session, info.receivers, info.complete, info.size) == (first.session, 2, 0, len(CONTENT))


async def test_a_session_ends_when_all_have_left_and_the_next_join_opens_another(bus: MemoryBus, digest: str) -> None:
    async with bus.events("evt.session.>", SessionInfo) as events:
        reply = await _join(bus, "n001", digest)
        stale = LeaveRequest(boot="another", session=reply.session, complete=False)
        await bus.call("rpc.mcastd.v1.leave.n001", stale, Empty)
        leave = LeaveRequest(boot="b1", session=reply.session, complete=False, reason="no beacon")
        assert (await _sessions(bus))[0].ended is None
        await bus.call("rpc.mcastd.v1.leave.n001", leave, Empty)
        async with asyncio.timeout(10):
            _, subject, info = await anext(events)
    assert subject == f"evt.session.{reply.session:08x}.ended"
    assert (info.receivers, info.complete) == (1, 0)
    assert await _sessions(bus) == [info]
    assert (await _join(bus, "n001", digest)).session != reply.session


async def test_an_image_of_an_earlier_build_is_found_by_its_manifest_in_the_store(
    bus: MemoryBus, tmp_path: Path
) -> None:
    (tmp_path / "older").write_bytes(CONTENT[:-1])
    older, _ = BlobStore(tmp_path / "store").add(tmp_path / "older")
    with pytest.raises(NotFound, match="no image build has the digest"):
        await _join(bus, "n001", older)
    (tmp_path / "store/manifests").mkdir()
    path = tmp_path / f"store/manifests/{older}.json"
    path.write_text("{")
    with pytest.raises(Unavailable, match="cannot be read"):
        await _join(bus, "n001", older)
    path.write_text(_manifest(older).model_dump_json())
    with pytest.raises(Unavailable, match=r"has 10239 bytes where the manifest says 10240"):
        await _join(bus, "n001", older)
    manifest = _manifest(older)
    path.write_text(
        manifest.model_copy(
            update={"squashfs": manifest.squashfs.model_copy(update={"size": 10_239})}
        ).model_dump_json()
    )
    assert (await _join(bus, "n001", older)).size == 10_239
