"""Files of a preview that are too large for a message: they come from the head's door."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from lab.certificates import Authority
from lab.cluster import FakeCluster
from shoal_cli.main import run
from shoal_cli.session import Session
from shoal_model import messages as m
from shoal_model import ports
from shoal_model.records import Kind
from shoal_model.subjects import Service
from shoal_service.http import served
from shoal_service.settings import ListeningSettings
from shoal_service.tls import server_context

CONTENT = b"key " * 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cluster() -> FakeCluster:
    large = m.PreviewFile(
        path="/etc/large", kind="file", mode=0o600, uid=0, gid=0, origin="options", sha256=DIGEST, size=len(CONTENT)
    )
    cluster = FakeCluster(
        {
            Kind.NODE: {"n001": {"mac": "52:54:00:77:00:11", "address": "10.77.0.11"}},
            Kind.NETWORK: {"boot": {"cidr": "127.0.0.0/8", "head": "127.0.0.1", "boot": True}},
        }
    )
    reply = m.PreviewReply(node="n001", generation="0" * 64, files=[large], actions=[])
    cluster.answer(Service.EXECD_CONFIG, "preview", m.PreviewRequest, reply)
    return cluster


@asynccontextmanager
async def door(settings: ListeningSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async def blob(request: web.Request) -> web.Response:
        assert (request.match_info["digest"], request.query["node"]) == (DIGEST, "n001")
        return web.Response(body=CONTENT)

    application = web.Application()
    application.router.add_get("/blobs/{digest}", blob)
    async with served(application, "127.0.0.1", 0, tls=server_context(settings)) as port:
        monkeypatch.setattr(ports, "OPTIONS_HTTP", port)
        yield


async def test_a_large_file_comes_from_a_door_without_tls(
    cluster: FakeCluster, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door(ListeningSettings(), monkeypatch):
        assert await asyncio.to_thread(cluster.shoal, "preview", "n001", "/etc/large") == 0
    assert capsysbinary.readouterr().out == CONTENT


async def test_a_large_file_comes_from_a_door_that_proves_itself(
    cluster: FakeCluster, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority()
    authority.issue(tmp_path / "tls.crt", tmp_path / "tls.key")
    settings = ListeningSettings(tls_cert=tmp_path / "tls.crt", tls_key=tmp_path / "tls.key")
    async with door(settings, monkeypatch):
        for trusted, status in ((authority, 0), (Authority(), 1)):
            session = Session(cluster._connect, "tester@here", trusted.trust.client_context)
            assert await asyncio.to_thread(run, ["preview", "n001", "/etc/large"], session) == status
    told = capsysbinary.readouterr()
    assert told.out == CONTENT
    assert b"certificate verify failed" in told.err
