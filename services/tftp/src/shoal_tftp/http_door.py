"""The HTTP door: the same tree, with HEAD and ranges, and every image under `/blobs/<digest of its squashfs>`.

It has no TLS, and is open to whoever asks: of the store, it gives images alone, never what configures a node.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from prometheus_client import Counter

from shoal_service.http import served
from shoal_tftp.files import NotServed
from shoal_tftp.handlers import Asker, BootFiles, Door, Offer

_COME_BACK = "5"
_RESPONSES = Counter("shoal_tftp_http_responses", "HTTP responses of the boot file server", ["status"])
_log = structlog.stdlib.get_logger("shoal.tftp")


class HttpDoor:
    """Serves `files` to HTTP clients, at most `places` files at once."""

    def __init__(self, files: BootFiles, places: int) -> None:
        self._files = files
        self._places = places
        self._active = 0
        self._application = web.Application()
        self._application.router.add_get("/blobs/{digest}", self._image)
        self._application.router.add_get("/{path:.*}", self._get)
        self._application.on_response_prepare.append(_count)

    @asynccontextmanager
    async def open(self, listen: tuple[str, int]) -> AsyncIterator[int]:
        """Serve for as long as the context lasts; gives the port. Raises Fatal if the address cannot be had."""
        async with served(self._application, *listen) as port:
            yield port

    async def _image(self, request: web.Request) -> web.StreamResponse:
        try:
            path = await self._files.squashfs(request.match_info["digest"])
        except NotServed as error:
            raise _refusal(request.path, _asker(request), error) from None
        return web.FileResponse(path, headers={hdrs.CONTENT_TYPE: "application/octet-stream"})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        asker = _asker(request)
        name = request.match_info["path"]
        try:
            offer = await self._files.offer(name, asker)
        except NotServed as error:
            raise _refusal(name, asker, error) from None
        if isinstance(offer.body, Path):
            if self._active >= self._places:
                _log.warning("http.full", client=asker.address, places=self._places)
                raise web.HTTPServiceUnavailable(text="all places are taken\n", headers={hdrs.RETRY_AFTER: _COME_BACK})
            return _Delivery(self, offer, offer.body, asker)
        if request.method == hdrs.METH_GET:
            self.done(offer, asker, len(offer.body))
        return web.Response(body=offer.body, content_type="text/plain", headers={hdrs.CACHE_CONTROL: "no-store"})

    def begin(self) -> None:
        """A file begins to go out."""
        self._active += 1

    def end(self) -> None:
        """A file has gone out, or its client is gone."""
        self._active -= 1

    def done(self, offer: Offer, asker: Asker, size: int) -> None:
        """A client has got `size` bytes, and with them the end of the offer."""
        _log.info("http.completed", client=asker.address, file=offer.name, node=offer.node, bytes=size)
        self._files.sent(offer, asker, size)

    def lost(self, offer: Offer, asker: Asker, reason: str) -> None:
        """A client went away before the end of the offer."""
        _log.warning("http.aborted", client=asker.address, file=offer.name, node=offer.node, reason=reason)
        self._files.failed(offer, asker, f"{offer.name} was not sent to its end: {reason}")


class _Delivery(web.FileResponse):
    """A file that tells the door when its last byte has gone out, or that it never will."""

    def __init__(self, door: HttpDoor, offer: Offer, path: Path, asker: Asker) -> None:
        super().__init__(path, headers={hdrs.CONTENT_TYPE: "application/octet-stream"})
        self._door, self._offer, self._asker = door, offer, asker

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the file: aiohttp does it here."""
        self._door.begin()
        try:
            writer = await super().prepare(request)
        except ConnectionError as error:
            self._door.lost(self._offer, self._asker, str(error) or "the client closed the connection")
            raise
        finally:
            self._door.end()
        if request.method == hdrs.METH_GET and self._reaches_the_end():
            self._door.done(self._offer, self._asker, self.content_length or 0)
        return writer

    def _reaches_the_end(self) -> bool:
        if self.status == web.HTTPOk.status_code:
            return True
        # bytes 0-499/1234 (RFC 9110 section 14.4)
        span, _, size = self.headers.get(hdrs.CONTENT_RANGE, "").partition("/")
        return self.status == web.HTTPPartialContent.status_code and span.endswith(f"-{int(size) - 1}")


def _refusal(name: str, asker: Asker, error: NotServed) -> web.HTTPException:
    level = _log.warning if error.worth_a_log else _log.debug
    level("http.refused", client=asker.address, file=name, reason=str(error))
    kind = web.HTTPForbidden if error.forbidden else web.HTTPNotFound
    return kind(text=f"{error}\n")


def _asker(request: web.Request) -> Asker:
    """The client's address, and ours at which it asked."""
    transport = request.transport
    if transport is None:
        raise web.HTTPServiceUnavailable(text="the connection is gone\n")
    return Asker(transport.get_extra_info("peername")[0], transport.get_extra_info("sockname")[0], Door.HTTP)


async def _count(_: web.Request, response: web.StreamResponse) -> None:
    _RESPONSES.labels(str(response.status)).inc()
