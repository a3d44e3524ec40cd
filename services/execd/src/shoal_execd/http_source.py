"""Content over HTTP, whole. Blocking: run it in a thread. (Images come as ranges: `shoal_mcast.http_ranges`.)"""

import contextlib
import hashlib
import http.client
import ssl
import urllib.parse
from collections.abc import Iterator
from typing import BinaryIO

from shoal_execd.node_options import Blob
from shoal_mcast.http_ranges import SourceFault, open_connection

_TIMEOUT = 20.0
_CHUNK = 1 << 18


class SourceFailed(Exception):
    """A source did not give what was asked of it; the text names the URL and what happened."""


def fetch_small(url: str, longest: int) -> bytes:
    """A file of at most `longest` bytes, which nothing proves. Raises SourceFailed."""
    with _get(url, None) as response:
        data = _read(response, longest + 1, url)
    if len(data) > longest:
        raise SourceFailed(f"{url} is longer than {longest} bytes")
    return data


def fetch_blob(base: str, blob: Blob, node: str, target: BinaryIO, tls: ssl.SSLContext | None = None) -> None:
    """Copy content to `target`; `tls` is how a source with https:// is checked.

    Raises SourceFailed if its size or SHA-256 is not as expected.
    """
    url = f"{base}/blobs/{blob.sha256}?node={node}"
    hasher, left = hashlib.sha256(), blob.size
    with _get(url, tls) as response:
        while left:
            chunk = _exactly(response, min(left, _CHUNK), url)
            hasher.update(chunk)
            target.write(chunk)
            left -= len(chunk)
        if _read(response, 1, url):
            raise SourceFailed(f"{url} is longer than the {blob.size} bytes expected")
    if hasher.hexdigest() != blob.sha256:
        raise SourceFailed(f"{url} does not match its digest: got {hasher.hexdigest()[:12]}")


@contextlib.contextmanager
def _get(url: str, tls: ssl.SSLContext | None) -> Iterator[http.client.HTTPResponse]:
    try:
        connection = open_connection(url, timeout=_TIMEOUT, tls=tls)
    except SourceFault as error:
        raise SourceFailed(str(error)) from None
    try:
        yield _response(connection, url)
    finally:
        connection.close()


def _response(connection: http.client.HTTPConnection, url: str) -> http.client.HTTPResponse:
    parts = urllib.parse.urlsplit(url)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
        response = connection.getresponse()
        if response.status == http.client.OK:
            return response
        said = response.read(200).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise SourceFailed(f"{url}: {error or type(error).__name__}") from error
    raise SourceFailed(f"{url} answered {response.status} {response.reason} where 200 was due: {said}")


def _exactly(response: http.client.HTTPResponse, size: int, url: str) -> bytes:
    data = _read(response, size, url)
    if len(data) != size:
        raise SourceFailed(f"{url} ended early: {len(data)} bytes where {size} were due")
    return data


def _read(response: http.client.HTTPResponse, most: int, url: str) -> bytes:
    try:
        return response.read(most)
    except (OSError, http.client.HTTPException) as error:
        raise SourceFailed(f"{url}: {error or type(error).__name__}") from error
