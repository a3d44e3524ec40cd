"""The HTTP doors of services: aiohttp's server, with bounds on what a client may hold of it without using it."""

import asyncio
import logging
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from shoal_service.errors import Fatal

log = logging.getLogger("shoal.http")

_BACKLOG = 4096
_DRAIN = 2.0
_TELL_AGAIN = 60.0


@dataclass(frozen=True)
class Limits:
    """Bounds of a door; times in seconds."""

    idle: float = 10.0
    """For a whole request header, from the connection or from the answer before it."""
    stalled: float = 30.0
    """For an answer of which the client takes nothing."""
    each: int = 64
    """Connections of one address. A node has a few."""
    together: int = 8192
    """Connections of all addresses; fewer where half of the files that may be open are fewer: each may send a file."""


@asynccontextmanager
async def served(
    application: web.Application, host: str, port: int, limits: Limits | None = None
) -> AsyncIterator[int]:
    """Serve at this address for as long as the context lasts; gives the port.

    Raises Fatal if the address cannot be had.
    """
    limits = limits or Limits()
    # aiohttp counts this time from the connection on too, and no request is one before its header is whole
    options: dict[str, Any] = {"access_log": None, "keepalive_timeout": limits.idle}
    runner = _Runner(limits, application, options)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        except OSError as error:
            raise Fatal(f"cannot serve HTTP at {host}:{port}: {error.strerror}; set SHOAL_LISTEN") from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


class _Runner(web.AppRunner):
    def __init__(self, limits: Limits, application: web.Application, options: dict[str, Any]) -> None:
        super().__init__(application, shutdown_timeout=_DRAIN, **options)
        self._limits = limits
        self._options = options

    async def _make_server(self) -> web.Server:
        usual = await super()._make_server()
        return _Server(self._limits, usual, self._options)


class _Server(web.Server):
    """Turns away those who have too many connections."""

    def __init__(self, limits: Limits, usual: web.Server, options: dict[str, Any]) -> None:
        super().__init__(usual.request_handler, request_factory=usual.request_factory, **options)
        self._limits = limits
        self._together = min(limits.together, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._addresses: dict[web.RequestHandler, str] = {}
        self._open: Counter[str] = Counter()
        self._refused = 0
        self._tell = 0.0

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """aiohttp's hook."""
        super().connection_made(handler, transport)
        address = self._addresses[handler] = str((transport.get_extra_info("peername") or ("gone",))[0])
        self._open[address] += 1
        if self._open[address] > self._limits.each or len(self._addresses) > self._together:
            transport.abort()
            self._tell_of(address)
            return
        # Neither files, which the kernel sends past aiohttp, nor closed windows escape this one: tcp(7)
        stalled = round(self._limits.stalled * 1000)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """aiohttp's hook."""
        super().connection_lost(handler, exc)
        address = self._addresses.pop(handler, None)
        if address is not None:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _tell_of(self, address: str) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._tell:
            self._tell = now + _TELL_AGAIN
            told = "http.refused client=%s connections=%d of_all=%d refused=%d (too many connections)"
            log.warning(told, address, self._open[address], len(self._addresses), self._refused)
