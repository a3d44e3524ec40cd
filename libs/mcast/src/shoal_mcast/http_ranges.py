"""The unicast way: missing blocks of an image over HTTP ranges, from any of several sources. Blocking, no asyncio."""

import http.client
import random
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence

from shoal_mcast.image_file import ImageFile
from shoal_mcast.session import Outcome

Progress = Callable[[int, int], None]
"""Called about once a second: bytes of the image that are there, bytes of it in all."""

_RUN = 32
"""Blocks that one request asks for at most."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class SourceFault(Exception):
    """A source did not give what it was asked for; the text names it and says what it did."""


def fetch_missing(
    image: ImageFile,
    urls: Sequence[str],
    *,
    attempts: int = 10,
    timeout: float = 15.0,
    tls: ssl.SSLContext | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Fetch every block that `image` lacks and verify it.

    `urls` are full URLs (`https://head:8081/blobs/<sha256>`), tried in turn; `tls` says whom we believe to be such a
    head. It gives up after `attempts` failures without a new block in between, with the last reason of every source;
    `timeout` (seconds) is for each read.
    """
    started, before = time.monotonic(), image.verified_bytes
    fetch = _Fetch(image, urls, timeout, tls, progress or (lambda there, size: None))
    reason = "no source to fetch from was given" if not urls else fetch.run(attempts)
    took = time.monotonic() - started
    return Outcome(image.complete, None if image.complete else reason, image.verified_bytes - before, took)


def runs(blocks: Sequence[int], longest: int = _RUN) -> Iterator[tuple[int, int]]:
    """Neighbouring block numbers as (first, last): [0, 1, 2, 5] → (0, 2), (5, 5)."""
    first = 0
    for position in range(1, len(blocks) + 1):
        ended = position == len(blocks) or blocks[position] != blocks[position - 1] + 1
        if ended or position - first == longest:
            yield blocks[first], blocks[position - 1]
            first = position


def open_connection(url: str, *, timeout: float, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """A connection, not made yet, to the server of an `http://` or `https://` URL; `tls` is how the latter is checked,
    and `timeout` in seconds. Raises SourceFault.
    """
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise SourceFault(f"{url!r} names no port from 0 to 65535") from None
    if parts.scheme == "http" and parts.hostname:
        return http.client.HTTPConnection(parts.hostname, port or 80, timeout=timeout)
    if parts.scheme != "https" or not parts.hostname:
        raise SourceFault(f"{url!r} is no URL of the form https://host:port/blobs/<sha256>")
    if tls is None:
        raise SourceFault(f"{url}: its certificate cannot be checked, for no certificate authority is known")
    return http.client.HTTPSConnection(parts.hostname, port or 443, timeout=timeout, context=tls)


class _Fetch:
    def __init__(
        self, image: ImageFile, urls: Sequence[str], timeout: float, tls: ssl.SSLContext | None, progress: Progress
    ) -> None:
        self._image = image
        self._urls = urls
        self._timeout = timeout
        self._tls = tls
        self._progress = progress
        self._told_at = time.monotonic()

    def run(self, attempts: int) -> str:
        """Until the image is complete or `attempts` in a row brought nothing: the reasons, one for each source."""
        reasons: dict[str, str] = {}
        failures, turn = 0, random.randrange(len(self._urls))  # many nodes at once: not all at the same source
        while not self._image.complete and failures < attempts:
            url = self._urls[turn % len(self._urls)]
            before = self._image.verified.count(1)
            try:
                self._from(url)
            except (OSError, http.client.HTTPException, SourceFault) as error:
                reasons[url] = str(error) if isinstance(error, SourceFault) else f"{url}: {error or repr(error)}"
                failures = 1 if self._image.verified.count(1) > before else failures + 1
                turn += 1
                if failures < attempts:
                    time.sleep(random.uniform(0.5, 1.0) * min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE))
        return "; ".join(reasons.values())

    def _from(self, url: str) -> None:
        """Every missing block from one source, over one connection."""
        connection = open_connection(url, timeout=self._timeout, tls=self._tls)
        try:
            for first, last in runs(self._image.missing):
                self._run(connection, url, first, last)
        finally:
            connection.close()

    def _run(self, connection: http.client.HTTPConnection, url: str, first: int, last: int) -> None:
        geometry = self._image.geometry
        start, end = geometry.span(first)[0], geometry.span(last)[1]
        parts = urllib.parse.urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Range": f"bytes={start}-{end - 1}"})
        response = connection.getresponse()
        if response.status != http.client.PARTIAL_CONTENT:
            said = response.read(200).decode("utf-8", "replace").strip()
            raise SourceFault(f"{url} answered {response.status} {response.reason}, not 206 to a range: {said}")
        expected = f"bytes {start}-{end - 1}/{geometry.size}"
        if response.headers.get("Content-Range") != expected:
            raise SourceFault(f"{url} gives {response.headers.get('Content-Range')!r} where {expected!r} was due")
        for block in range(first, last + 1):
            self._read(response, url, self._image.block(block))
            if not self._image.verify(block):
                raise SourceFault(
                    f"block {block} from {url} does not match the manifest (SHA-256 "
                    f"{self._image.hashes[block][:12]}… is due): its copy of the image is damaged"
                )
            self._tell()

    def _read(self, response: http.client.HTTPResponse, url: str, target: memoryview) -> None:
        done = 0
        while done < len(target):
            count = response.readinto(target[done:])
            if not count:
                raise SourceFault(f"{url} ended {len(target) - done} bytes too early")
            done += count

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= 1.0:
            self._told_at = now
            self._progress(self._image.verified_bytes, self._image.geometry.size)
