"""The image on its way in, and HTTP as the unicast way, against a small server of its own."""

import hashlib
import http.server
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal_mcast.geometry import Geometry
from shoal_mcast.http_ranges import fetch_missing, runs
from shoal_mcast.image_file import ImageFile
from shoal_mcast.session import Join

GEOMETRY = Geometry(10_000, 64, 16)
CONTENT = random.Random(5).randbytes(GEOMETRY.size)
HASHES = [hashlib.sha256(CONTENT[slice(*GEOMETRY.span(b))]).hexdigest() for b in range(GEOMETRY.blocks)]


class Source(http.server.BaseHTTPRequestHandler):
    """Ranges of what `server.content` says; `server.fault` spoils the answers in one way."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert asked
        start, end = int(asked[1]), int(asked[2]) + 1
        self.server.asked.append((start, end))
        body, total = self.server.content[start:end], len(self.server.content)
        if self.server.fault == "missing":
            self.send_error(404, "not here")
            return
        self.send_response(200 if self.server.fault == "whole" else 206)
        shown = start + 1 if self.server.fault == "other range" else start
        self.send_header("Content-Range", f"bytes {shown}-{end - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = len(body) // 2 if self.server.fault == "cut" and len(self.server.asked) < 3 else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = cut < len(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, content: bytes, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Source)
        self.content, self.fault = content, fault
        self.asked: list[tuple[int, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/blobs/x"


@pytest.fixture
def serve() -> Iterator[type[Server]]:
    started: list[Server] = []

    class Started(Server):
        def __init__(self, content: bytes, fault: str = "") -> None:
            super().__init__(content, fault)
            started.append(self)
            threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    yield Started
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[ImageFile]:
    with ImageFile.open(tmp_path / "image", GEOMETRY, HASHES) as image:
        yield image


def test_blocks_count_once_they_match_and_the_file_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with ImageFile.open(path, GEOMETRY, HASHES) as image:
        assert image.missing == list(range(10))
        for block in range(GEOMETRY.blocks):
            assert not image.verify(block)
            image.block(block)[:] = CONTENT[slice(*GEOMETRY.span(block))]
            assert image.verify(block)
        assert image.complete
        assert image.verified_bytes == GEOMETRY.size
        image.block(4)[7] ^= 1
        assert not image.verify(4)
        assert image.missing == [4]
        image.block(4)[7] ^= 1
    assert path.read_bytes() == CONTENT


def test_pages_are_provided_ahead_piece_by_piece_without_touching_content(image: ImageFile) -> None:
    image.block(0)[:3] = b"abc"
    assert [image.populate(4096) for _ in range(4)] == [True, True, True, False]
    assert bytes(image.block(0)[:4]) == b"abc\0"


def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="9 block hashes, the image 10 blocks"),
        ImageFile.open(tmp_path / "i", GEOMETRY, HASHES[1:]),
    ):
        pass


def test_only_what_is_missing_is_fetched(image: ImageFile, serve: type[Server]) -> None:
    server = serve(CONTENT)
    for block in (0, 3, 4):
        image.block(block)[:] = CONTENT[slice(*GEOMETRY.span(block))]
        assert image.verify(block)
    outcome = fetch_missing(image, [server.url])
    assert (outcome.complete, outcome.reason) == (True, None)
    assert bytes(image.buffer) == CONTENT
    assert server.asked == [(1024, 3072), (5120, 10_000)]
    assert outcome.received == 10_000 - 3 * 1024


@pytest.mark.parametrize("fault", ["missing", "whole", "other range", "cut"])
def test_a_source_with_a_fault_is_named_and_the_next_one_helps(
    image: ImageFile, serve: type[Server], fault: str
) -> None:
    bad, good = serve(CONTENT, fault), serve(CONTENT)
    alone = fetch_missing(image, [bad.url], attempts=2)
    if fault == "cut":
        assert image.verified.count(1) >= 4  # what came before the cut counts
    else:
        assert not alone.complete
        assert alone.reason is not None
        assert bad.url in alone.reason
    assert fetch_missing(image, [bad.url, good.url], attempts=6).complete
    assert bytes(image.buffer) == CONTENT


def test_a_damaged_copy_is_refused_block_by_block(image: ImageFile, serve: type[Server]) -> None:
    spoilt = bytearray(CONTENT)
    spoilt[5 * 1024] ^= 0x10
    outcome = fetch_missing(image, [serve(bytes(spoilt)).url], attempts=2)
    assert not outcome.complete
    assert outcome.reason is not None
    assert "block 5" in outcome.reason
    assert "does not match the manifest" in outcome.reason
    assert image.missing == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(("urls", "said"), [
    ([], "no source"), (["ftp://x/y"], "no URL of the form"), (["http://127.0.0.1:1/blobs/x"], "127.0.0.1:1"),
])  # fmt: skip
def test_no_source_is_a_reason_too(image: ImageFile, urls: list[str], said: str) -> None:
    outcome = fetch_missing(image, urls, attempts=1)
    assert not outcome.complete
    assert said in (outcome.reason or "")


@pytest.mark.parametrize(("blocks", "longest", "expected"), [
    ([], 4, []), ([3], 4, [(3, 3)]), ([0, 1, 2, 5], 4, [(0, 2), (5, 5)]),
    ([0, 1, 2, 3, 4], 2, [(0, 1), (2, 3), (4, 4)]),
])  # fmt: skip
def test_runs(blocks: list[int], longest: int, expected: list[tuple[int, int]]) -> None:
    assert list(runs(blocks, longest)) == expected


REPLY = {
    "session": 1, "source": "10.0.0.1", "group": "239.77.1.2", "port": 17081, "control_port": 4000, "receiver": 9,
    "size": 10_000, "symbol_size": 64, "block_symbols": 16, "http": "http://10.0.0.1:8081/blobs/x",
}  # fmt: skip


def test_the_answer_to_a_join_is_read() -> None:
    join = Join.from_map(REPLY)
    assert join.geometry() == GEOMETRY
    assert join.group == "239.77.1.2"


@pytest.mark.parametrize(("field", "value"), [
    ("session", -1), ("session", 1 << 32), ("source", "239.1.1.1"), ("source", 7), ("group", "10.0.0.1"),
    ("group", None), ("port", 0), ("control_port", 65_536), ("receiver", True), ("size", 0), ("size", "1"),
    ("symbol_size", 12), ("block_symbols", 0),
])  # fmt: skip
def test_a_wrong_answer_to_a_join_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"answer to the join|symbol|bytes"):
        Join.from_map({**REPLY, field: value})
