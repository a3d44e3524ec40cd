"""A wire between NATS clients and a server, for a test to meddle with."""

import asyncio
from collections.abc import Callable
from typing import Self


def _as_it_is(data: bytes) -> bytes:
    return data


class NatsProxy:
    """`async with NatsProxy(port) as proxy`: clients connect to `proxy.url`."""

    def __init__(self, server_port: int) -> None:
        self.to_client: Callable[[bytes], bytes] = _as_it_is
        """Rewrites what the server says; gives b"" for what is to be lost."""
        self.lifetime: float | None = None
        """Seconds after which a connection is told that it has expired, and cut: what a server does."""
        self.expired = 0
        self.connections = 0
        self._server_port = server_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._joined: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._listener is not None
        return f"nats://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    def say(self, data: bytes) -> None:
        """Speak to every client in the server's place."""
        for writer in self._writers:
            writer.write(data)

    def cut(self) -> None:
        """Break every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._join, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        while self._joined:
            await asyncio.wait(self._joined)
        await self._listener.wait_closed()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        joined = asyncio.current_task()
        assert joined is not None
        self._joined.add(joined)
        joined.add_done_callback(self._joined.discard)
        self.connections += 1
        self._writers.add(writer)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        if self.lifetime is not None:
            asyncio.get_running_loop().call_later(self.lifetime, self._expire, writer)
        up = asyncio.create_task(self._carry(reader, server_writer, _as_it_is))
        down = asyncio.create_task(self._carry(server_reader, writer, lambda data: self.to_client(data)))
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        self._writers.discard(writer)
        for end in (writer, server_writer):
            end.transport.abort()
        await asyncio.wait({up, down})
        for end in (writer, server_writer):
            end.close()
            await asyncio.gather(end.wait_closed(), return_exceptions=True)

    def _expire(self, writer: asyncio.StreamWriter) -> None:
        if writer in self._writers:
            self.expired += 1
            writer.write(b"-ERR 'User Authentication Expired'\r\n")
            writer.close()

    @staticmethod
    async def _carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rewrite: Callable[[bytes], bytes]
    ) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(rewrite(data))
                await writer.drain()
        except OSError:
            return


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (conditions of all kinds)
            await asyncio.sleep(0.005)
