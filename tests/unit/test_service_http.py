"""The HTTP door against clients that hold on to it."""

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from lab.certificates import Authority
from shoal_service.errors import Fatal
from shoal_service.http import Limits, served
from shoal_service.settings import ListeningSettings
from shoal_service.tls import server_context

REQUEST = b"GET /big HTTP/1.1\r\nHost: head\r\n\r\n"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How a TLS client begins: the first octets of 512."""


class Tls:
    """Both ends of a door with TLS."""

    def __init__(self, folder: Path) -> None:
        authority, certificate, key = Authority(), folder / "head.crt", folder / "head.key"
        authority.issue(certificate, key)
        self.server = server_context(ListeningSettings(tls_cert=certificate, tls_key=key))
        self.client = authority.trust.client_context()


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


@asynccontextmanager
async def door(folder: Path, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    big = folder / "big"
    with big.open("wb") as content:
        content.truncate(64 << 20)

    async def get(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(big)

    application = web.Application()
    application.router.add_get("/big", get)
    async with served(application, "127.0.0.1", 0, limits, tls) as port:
        yield port


async def closed_after(reader: asyncio.StreamReader) -> float:
    began = time.monotonic()
    async with asyncio.timeout(10):
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionResetError:
            pass
    return time.monotonic() - began


@pytest.mark.parametrize("begun", [b"", REQUEST[:-2]])
async def test_who_never_finishes_a_request_is_let_go(tmp_path: Path, begun: bytes) -> None:
    async with door(tmp_path, Limits(idle=0.5)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        assert 0.3 < await closed_after(reader) < 5
        writer.close()


@pytest.mark.parametrize("begun", [b"", HELLO, b"GET / HTTP/1.1\r\n"])
async def test_who_never_finishes_a_handshake_is_let_go(tmp_path: Path, tls: Tls, begun: bytes) -> None:
    async with door(tmp_path, Limits(idle=0.5), tls.server) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        assert await closed_after(reader) < 5
        writer.close()


async def test_who_asks_for_nothing_after_the_handshake_is_let_go(tmp_path: Path, tls: Tls) -> None:
    async with door(tmp_path, Limits(idle=0.5), tls.server) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client)
        assert await closed_after(reader) < 5
        writer.close()


async def test_a_drip_of_header_lines_is_no_request(tmp_path: Path) -> None:
    async with door(tmp_path, Limits(idle=0.5)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        closed = asyncio.create_task(closed_after(reader))
        writer.write(REQUEST[:-2])
        while not closed.done():
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.1)
        assert await closed < 5
        writer.close()


async def test_who_takes_nothing_of_an_answer_is_let_go(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with door(tmp_path, Limits(stalled=1.0)) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, REQUEST)
            await asyncio.sleep(4.0)
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionResetError):
                    await _receive(client, 64 << 20)


async def test_who_takes_nothing_of_an_answer_over_tls_is_let_go(tmp_path: Path, tls: Tls) -> None:
    async with door(tmp_path, Limits(stalled=1.0, each=1), tls.server) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client, limit=4096)
        writer.write(REQUEST)
        async with asyncio.timeout(20):
            while not await _admitted(port, tls):  # noqa: ASYNC110 - the place of the one that hangs is free again
                await asyncio.sleep(0.1)
        writer.transport.abort()


async def _admitted(port: int, tls: Tls) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client)
    except ConnectionError:
        return False
    writer.transport.abort()
    return True


async def _receive(client: socket.socket, size: int) -> None:
    loop = asyncio.get_running_loop()
    while size > 0 and (data := await loop.sock_recv(client, 1 << 20)):
        size -= len(data)


@pytest.mark.parametrize("secure", [False, True])
async def test_a_slow_but_steady_client_gets_all(tmp_path: Path, tls: Tls, secure: bool) -> None:
    async with door(tmp_path, Limits(idle=0.5, stalled=1.0), tls.server if secure else None) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client if secure else None)
        writer.write(REQUEST)
        got = len(await reader.readuntil(b"\r\n\r\n")) * 0
        while got < 64 << 20:
            got += len(await reader.readexactly(min(4 << 20, (64 << 20) - got)))
            await asyncio.sleep(0.15)
        writer.close()


@pytest.mark.parametrize("limits", [Limits(each=3), Limits(together=3)])
async def test_one_address_has_so_many_connections_and_gets_them_back(tmp_path: Path, limits: Limits) -> None:
    async with door(tmp_path, limits) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await closed_after(reader) < 5
        writer.close()
        held[0][1].close()
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HEAD /big HTTP/1.1\r\nHost: head\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _, other in (*held, (reader, writer)):
            other.close()


async def test_a_connection_counts_from_its_handshake_on_until_it_failed(tmp_path: Path, tls: Tls) -> None:
    async with door(tmp_path, Limits(each=3), tls.server) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        held.append(await asyncio.open_connection("127.0.0.1", port, ssl=tls.client))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await closed_after(reader) < 5
        writer.close()
        held[0][1].write(b"no TLS at all")
        assert await closed_after(held[0][0]) < 5
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.client)
        writer.write(b"HEAD /big HTTP/1.1\r\nHost: head\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _, other in (*held, (reader, writer)):
            other.transport.abort()


async def test_no_more_connections_than_half_the_files_that_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (6, 6))
    async with door(tmp_path) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await closed_after(reader) < 5
        for _, other in (*held, (reader, writer)):
            other.close()


async def test_an_address_that_is_taken_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Fatal, match=r"cannot serve HTTP at 127\.0\.0\.1:.*set SHOAL_LISTEN"):
            async with served(web.Application(), "127.0.0.1", taken.getsockname()[1]):
                pass
