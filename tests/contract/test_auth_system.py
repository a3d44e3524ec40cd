"""What the system user asks a real server for: who is connected, and to cut a connection."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.auth_lab import AuthLab, Machine, auth_lab
from shoal_auth.connections import Connections, Peer
from shoal_bus.connection import Credentials, connect
from shoal_model.subjects import Service, inbox


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AuthLab]:
    async with auth_lab(tmp_path) as lab, lab.replica():
        yield lab


async def test_a_connection_is_cut_once_and_one_that_is_gone_is_not(lab: AuthLab) -> None:
    await lab.arm("n001")
    link = await lab.boot(Machine("n001"))
    credentials = Credentials(key=lab.server.system, inbox_prefix=inbox(Service.AUTH))
    async with await connect([lab.server.url], name="system", credentials=credentials, timeout=10) as system:
        found = Connections(system)
        (peer,) = await found.peers()
        assert peer.node == "n001"
        assert await found.cut(peer) is True
        async with asyncio.timeout(15):
            await link.lost()
        assert await found.peers() == []
        assert await found.cut(peer) is False
        assert await found.cut(Peer(peer.server, 1 << 30, "n002@b2@K2")) is False
