"""The door of execd-config: what a node's options name, and nothing else, over TLS as over plain HTTP."""

import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import structlog
from aiohttp import web

from lab.certificates import Authority
from shoal_bus.errors import Unavailable
from shoal_bus.fakes import MemoryBus
from shoal_execd_config import options as options_module
from shoal_execd_config.handlers import Doors, Options
from shoal_model.messages import PreviewRequest
from shoal_model.records import Cluster, RootfsRelease, StoredFile
from shoal_model.resolve import Snapshot
from shoal_service.http import served
from shoal_service.settings import ListeningSettings
from shoal_service.store import BlobStore
from shoal_service.tls import server_context

CLUSTER = Cluster.model_validate(
    {
        "networks": {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}},
        "rootfs": {"keys": {}},
        "nodes": {
            "n001": {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", "rootfs": ["keys"]},
            "n002": {"mac": "52:54:00:77:00:12", "address": "10.77.0.12"},
        },
    }
)
HOSTNAME = hashlib.sha256(b"n001\n").hexdigest()


def archive() -> bytes:
    """A customization with one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("etc/secret")
        info.size = 7
        tar.addfile(info, io.BytesIO(b"secret\n"))
    return buffer.getvalue()


class Head:
    """A store with an archive in it and a file of something else, and execd-config in front of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = BlobStore(folder / "store")
        self.archive, self.other = self.add(archive()), self.add(b"of somebody else")
        release = RootfsRelease(
            archive=StoredFile(sha256=self.archive, size=len(archive())), files=1, committed=datetime.now(UTC)
        )
        self.snapshot = Snapshot(CLUSTER, {}, {"keys": release})
        self.authority = Authority()
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(self.authority.trust.dump())

    def add(self, content: bytes) -> str:
        (self.folder / "new").write_bytes(content)
        return self.store.add(self.folder / "new")[0]

    def service(self, *, store: BlobStore | None = None, ca: Path | None = None) -> Options:
        doors = Doors("https", ca or self.ca)
        return Options(MemoryBus(), lambda: self.snapshot, store or self.store, structlog.get_logger(), doors)

    @asynccontextmanager
    async def door(self, blob: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
        """The base URL under which blobs are served with TLS."""
        self.authority.issue(self.folder / "tls.crt", self.folder / "tls.key")
        settings = ListeningSettings(tls_cert=self.folder / "tls.crt", tls_key=self.folder / "tls.key")
        application = web.Application()
        application.router.add_get("/blobs/{digest}", blob)
        async with served(application, "127.0.0.1", 0, tls=server_context(settings)) as port:
            yield f"https://127.0.0.1:{port}"


@pytest.fixture
def head(tmp_path: Path) -> Head:
    return Head(tmp_path)


async def test_the_door_gives_a_node_what_its_options_name(head: Head) -> None:
    tls = head.authority.trust.client_context()
    async with head.door(head.service().blob) as base, aiohttp.ClientSession() as session:

        async def get(digest: str, query: str) -> bytes | None:
            async with session.get(f"{base}/blobs/{digest}{query}", ssl=tls) as answer:
                assert answer.status in (200, 404)
                return await answer.read() if answer.status == 200 else None

        assert await get(head.archive, "?node=n001") == archive()
        assert await get(HOSTNAME, "?node=n001") == b"n001\n"
        for query in ("?node=n002", "?node=n009", "?node=", "?node=../n001", ""):
            assert await get(head.archive, query) is None
            assert await get(HOSTNAME, query) is None
        for digest in (head.other, "0" * 64, "x"):
            assert await get(digest, "?node=n001") is None
        head.store.path(head.archive).unlink()
        assert await get(head.archive, "?node=n001") is None


async def test_a_preview_takes_archives_from_doors_that_prove_themselves(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = BlobStore(head.folder / "nothing")
    stranger = head.folder / "stranger.crt"
    stranger.write_bytes(Authority().trust.dump())
    async with head.door(head.store.serve) as base:
        monkeypatch.setattr(options_module, "sources", lambda *_: ["https://ours", base])
        shown = await head.service(store=nothing).preview("", PreviewRequest(node="n001"))
        assert [file.content for file in shown.files if file.path == "/etc/secret"] == [b"secret\n"]
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await head.service(store=nothing, ca=stranger).preview("", PreviewRequest(node="n001"))
        with pytest.raises(Unavailable, match="cannot use the trust file"):
            await head.service(store=nothing, ca=head.folder).preview("", PreviewRequest(node="n001"))
