"""The unicast way: the image store over HTTP, with ranges."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from shoal_model import ports
from shoal_service import http as door
from shoal_service.store import BlobStore


@asynccontextmanager
async def served(address: str, store: BlobStore, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
    """Serve `/blobs/<sha256>` at this address for as long as the context lasts. Raises Fatal."""
    app = web.Application(client_max_size=1)
    app.router.add_get("/blobs/{digest}", store.serve)
    async with door.served(app, address, ports.IMAGE_HTTP, tls=tls):
        yield
