"""How the image comes to the node: by multicast with all the others, else over HTTP, whatever is verified kept.

Multicast → HTTP ranges from each source in turn. A source that gives wrong bytes is named and left; nothing is used
before the whole is what the manifest says.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable

from shoal_execd.landing import Image
from shoal_execd.orders import Orders
from shoal_execd.timeline import DEGRADED, FAILED, OK, Details, Timeline
from shoal_mcast.http_ranges import fetch_missing
from shoal_model.subjects import Stage

MULTICAST, HTTP = "multicast", "http"
_ATTEMPTS = 3

Way = Callable[[Image, str], Awaitable[str | None]]
"""Brings missing blocks of the image with this SHA-256; why not all of them, or None."""


class FetchFailed(Exception):
    """No source gave the image; the text holds the reason of each."""


async def fetch_image(
    timeline: Timeline, image: Image, orders: Orders, multicast: Way, tls: ssl.SSLContext | None = None
) -> None:
    """Bring the image here, whole and verified; `tls` is how sources with https:// are checked.

    Raises FetchFailed when every way was tried once.
    """
    begin = time.monotonic()
    ways: list[tuple[str, str, Way]] = [(MULTICAST, MULTICAST, multicast)]
    ways += [(HTTP, base, over_http(base, tls)) for base in orders.sources]
    reasons: list[str] = []
    for method, source, way in ways:
        if await _came(timeline, image, orders, (method, source, way), reasons):
            seconds = round(time.monotonic() - begin, 3)
            timeline.event(Stage.IMAGE_RECEIVED, {"bytes": image.geometry.size, "seconds": seconds, "method": method})
            if await _is_right(timeline, image, orders, source, reasons):
                return
    raise FetchFailed("; ".join(reasons))


def over_http(base: str, tls: ssl.SSLContext | None) -> Way:
    """The way over HTTP ranges from one source."""

    async def fetch(image: Image, sha256: str) -> str | None:
        url = f"{base}/blobs/{sha256}"
        return (await asyncio.to_thread(fetch_missing, image, [url], attempts=_ATTEMPTS, tls=tls)).reason

    return fetch


async def _came(
    timeline: Timeline, image: Image, orders: Orders, way: tuple[str, str, Way], reasons: list[str]
) -> bool:
    """Try one way; whether the image is complete. Why it is not is added to `reasons`."""
    method, source, bring = way
    details: Details = {"method": method, "source": source, "missing": len(image.missing)}
    timeline.event(Stage.IMAGE_SOURCE, details, status=DEGRADED if reasons else OK, reason="".join(reasons[-1:]))
    image.wrong = None
    image.on_quarter = lambda percent: timeline.event(Stage.IMAGE_PROGRESS, {"percent": percent, "method": method})
    reason = await bring(image, orders.manifest.sha256)
    if image.complete:
        return True
    if image.wrong is None:
        reasons.append(f"{method}: {reason}")
    else:
        _refuse(timeline, image, orders, source, reasons)
    return False


async def _is_right(timeline: Timeline, image: Image, orders: Orders, source: str, reasons: list[str]) -> bool:
    """Whether the whole is what the manifest says, blocks apart."""
    expected = orders.manifest.sha256
    begin = time.monotonic()
    if not await asyncio.to_thread(image.whole, expected):
        _refuse(timeline, image, orders, source, reasons)
        return False
    seconds = round(time.monotonic() - begin, 3)
    timeline.event(Stage.IMAGE_VERIFIED, {"sha256": expected, "blocks": len(image.hashes), "seconds": seconds})
    return True


def _refuse(timeline: Timeline, image: Image, orders: Orders, source: str, reasons: list[str]) -> None:
    reason = f"image {orders.manifest.sha256[:12]} from {source} does not match its manifest: {image.wrong}"
    timeline.event(Stage.IMAGE_VERIFIED, status=FAILED, reason=reason)
    reasons.append(reason)
