"""Content by its digest over HTTP. Blocking: run it in a thread. (Images come as ranges: `shoal_mcast.http_ranges`.)"""

import contextlib
import hashlib
import http.client
import urllib.parse
from collections.abc import Iterator
from typing import BinaryIO

from shoal_execd.node_options import Blob

_TIMEOUT = 20.0
_CHUNK = 1 << 18


class SourceFailed(Exception):
    """A source did not give what was asked of it; the text names the URL and what happened."""


def fetch_blob(base: str, blob: Blob, node: str, target: BinaryIO) -> None:
    """Copy content to `target`. Raises SourceFailed if its size or SHA-256 is not as expected."""
    url = f"{base}/blobs/{blob.sha256}?node={node}"
    hasher, left = hashlib.sha256(), blob.size
    with _get(url, {}, http.client.OK) as response:
        while left:
            chunk = _exactly(response, min(left, _CHUNK), url)
            hasher.update(chunk)
            target.write(chunk)
            left -= len(chunk)
        if response.read(1):
            raise SourceFailed(f"{url} is longer than the {blob.size} bytes expected")
    if hasher.hexdigest() != blob.sha256:
        raise SourceFailed(f"{url} does not match its digest: got {hasher.hexdigest()[:12]}")


@contextlib.contextmanager
def _get(url: str, headers: dict[str, str], expected: int) -> Iterator[http.client.HTTPResponse]:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_TIMEOUT)
    try:
        yield _response(connection, url, headers, expected)
    finally:
        connection.close()


def _response(
    connection: http.client.HTTPConnection, url: str, headers: dict[str, str], expected: int
) -> http.client.HTTPResponse:
    parts = urllib.parse.urlsplit(url)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers)
        response = connection.getresponse()
        if response.status == expected:
            return response
        said = response.read(200).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise SourceFailed(f"{url}: {error or type(error).__name__}") from error
    raise SourceFailed(f"{url} answered {response.status} {response.reason} where {expected} was due: {said}")


def _exactly(response: http.client.HTTPResponse, size: int, url: str) -> bytes:
    try:
        data = response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise SourceFailed(f"{url}: {error or type(error).__name__}") from error
    if len(data) != size:
        raise SourceFailed(f"{url} ended early: {len(data)} bytes where {size} were due")
    return data
