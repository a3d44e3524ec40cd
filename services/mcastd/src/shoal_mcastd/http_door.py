"""The unicast way: the image store over HTTP, with ranges."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from shoal_service.errors import Fatal
from shoal_service.settings import host_port
from shoal_service.store import BlobStore

_DRAIN = 2.0


@asynccontextmanager
async def served(address: str, store: BlobStore) -> AsyncIterator[int]:
    """Serve `/blobs/<sha256>` at `host:port` for as long as the context lasts; yields the port. Raises Fatal."""
    app = web.Application(client_max_size=1)
    app.router.add_get("/blobs/{digest}", store.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_DRAIN)
    await runner.setup()
    try:
        host, port = host_port(address)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise Fatal(
                f"cannot serve HTTP at {address}: {error.strerror}; set SHOAL_HTTP to another address"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
