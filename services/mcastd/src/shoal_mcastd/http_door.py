"""The unicast way: the image store over HTTP, with ranges."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from shoal_model import ports
from shoal_service.errors import Fatal
from shoal_service.store import BlobStore

_DRAIN = 2.0


@asynccontextmanager
async def served(address: str, store: BlobStore) -> AsyncIterator[None]:
    """Serve `/blobs/<sha256>` at this address for as long as the context lasts. Raises Fatal."""
    app = web.Application(client_max_size=1)
    app.router.add_get("/blobs/{digest}", store.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_DRAIN)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address, ports.IMAGE_HTTP).start()
        except OSError as error:
            raise Fatal(
                f"cannot serve HTTP at {address}:{ports.IMAGE_HTTP}: {error.strerror}; set SHOAL_LISTEN"
            ) from None
        yield
    finally:
        await runner.cleanup()
