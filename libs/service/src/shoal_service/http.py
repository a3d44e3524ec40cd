"""The HTTP doors of services: aiohttp's server, with bounds on what a client may hold of it without using it."""

import asyncio
import logging
import resource
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
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
    """For a whole request header, from the connection or from the answer before it; with TLS, for the handshake too."""
    stalled: float = 30.0
    """For an answer of which the client takes nothing."""
    each: int = 64
    """Connections of one address. A node has a few."""
    together: int = 8192
    """Connections of all addresses; fewer where half of the files that may be open are fewer: each may send a file."""


@asynccontextmanager
async def served(
    application: web.Application,
    host: str,
    port: int,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve at this IPv4 address for as long as the context lasts; gives the port. See `tls.server_context` for `tls`.

    Raises Fatal if the address cannot be had.
    """
    limits = limits or Limits()
    # aiohttp counts `idle` from the connection on too, and no request is one before its header is whole
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=limits.idle, shutdown_timeout=_DRAIN)
    with _listening(host, port, limits) as listener:
        await runner.setup()
        try:
            assert runner.server is not None
            server = await asyncio.get_running_loop().create_server(
                runner.server,
                sock=listener,
                ssl=tls,
                backlog=_BACKLOG,
                ssl_handshake_timeout=limits.idle if tls else None,
                ssl_shutdown_timeout=_DRAIN if tls else None,
            )
            try:
                yield int(listener.getsockname()[1])
            finally:
                server.close()
        finally:
            await runner.cleanup()


def _listening(host: str, port: int, limits: Limits) -> "_Listener":
    """Raises Fatal."""
    listener = _Listener(limits)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise Fatal(f"cannot serve HTTP at {host}:{port}: {error.strerror}; set SHOAL_LISTEN") from error
    return listener


class _Listener(socket.socket):
    """Turns away those who have too many connections: here, because asyncio tells of one only after its handshake."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._limits = limits
        self._together = min(limits.together, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._open: Counter[str] = Counter()
        self._all = 0
        self._refused = 0
        self._tell = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """As every socket's; ConnectionAbortedError for a connection that was turned away."""
        accepted, peer = super().accept()
        address = str(peer[0])
        if self._open[address] >= self._limits.each or self._all >= self._together:
            accepted.close()
            self._tell_of(address)
            raise ConnectionAbortedError
        # Neither files, which the kernel sends past aiohttp, nor closed windows escape this one: tcp(7)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self._limits.stalled * 1000))
        self._open[address] += 1
        self._all += 1
        return _Connection(accepted, lambda: self._ended(address)), peer

    def _ended(self, address: str) -> None:
        self._all -= 1
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def _tell_of(self, address: str) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._tell:
            self._tell = now + _TELL_AGAIN
            told = "http.refused client=%s connections=%d of_all=%d refused=%d (too many connections)"
            log.warning(told, address, self._open[address], self._all, self._refused)


class _Connection(socket.socket):
    """A connection that tells when it is closed."""

    def __init__(self, accepted: socket.socket, ended: Callable[[], None]) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._tell_end: Callable[[], None] | None = ended

    def close(self) -> None:
        """As every socket's."""
        super().close()
        ended, self._tell_end = self._tell_end, None
        if ended is not None:
            ended()
