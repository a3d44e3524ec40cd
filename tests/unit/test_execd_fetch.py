"""How the image comes: orders, the ladder of ways, and that nothing wrong is ever used. HTTP over loopback."""

import hashlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab.secure import certified
from shoal_execd.fetch import FetchFailed, fetch_image
from shoal_execd.journal import Journal
from shoal_execd.landing import Image, Slot
from shoal_execd.orders import Orders, OrdersError, parse_manifest, parse_orders
from shoal_execd.timeline import Timeline
from shoal_identity import signatures
from shoal_identity.keys import Key

CONTENT = bytes(range(256)) * 64
SYMBOL, SYMBOLS = 64, 16
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def manifest(content: bytes = CONTENT) -> dict[str, Any]:
    block = SYMBOL * SYMBOLS
    return {
        "image": "compute",
        "squashfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)},
        "geometry": {"symbol_size": SYMBOL, "block_symbols": SYMBOLS},
        "blocks": [
            hashlib.sha256(content[start : start + block]).hexdigest() for start in range(0, len(content), block)
        ],
    }


def reply(body: object = None, sources: tuple[str, ...] = ("http://127.0.0.1:1",)) -> dict[str, Any]:
    """A `BootReply`; `body` in the place of the right manifest."""
    return {
        "node": "n001",
        "name": "n001",
        "style": "roram",
        "root_size": "50%",
        "tmp_size": "25%",
        "sources": list(sources),
        "manifest": {"body": json.dumps(manifest() if body is None else body).encode(), "key": "", "signature": b""},
    }


@contextmanager
def server(content: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A source that serves ranges of `content`, whatever digest is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", self.headers.get("Range", ""))
            assert found is not None
            first, last = int(found[1]), int(found[2])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            self.wfile.write(content[first : last + 1])

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that does not believe us

    listener = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        listener.socket = tls.wrap_socket(listener.socket, server_side=True)
    thread = threading.Thread(target=listener.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"http{'' if tls is None else 's'}://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def never(reason: str) -> Callable[[Image, str], Any]:
    async def multicast(image: Image, sha256: str) -> str | None:
        return reason

    return multicast


async def everything(image: Image, sha256: str) -> str | None:
    image.buffer[:] = CONTENT
    for block in image.missing:
        assert image.verify(block)
    return None


async def fetch(
    tmp_path: Path, orders: Orders, multicast: Callable[[Image, str], Any], tls: ssl.SSLContext | None = None
) -> list[dict[str, Any]]:
    """Fetch; the events that were told. FetchFailed is in the last one's `error`."""
    timeline = Timeline("n001", "b1", Journal("stage1", []))
    error: FetchFailed | None = None
    with Slot(tmp_path / "image", lambda size: None) as slot:
        try:
            await fetch_image(timeline, slot.open(orders.manifest), orders, multicast, tls)
        except FetchFailed as failed:
            error = failed
    events = [message for subject, message in timeline.rest() if subject.startswith("evt.boot.")]
    return [*events, {"error": error}]


def told(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["stage"], event["status"]) for event in events[:-1] if event["stage"] != "image.progress"]


async def test_multicast_alone(tmp_path: Path) -> None:
    events = await fetch(tmp_path, parse_orders(reply()), everything)
    assert told(events) == [("image.source", "ok"), ("image.received", "ok"), ("image.verified", "ok")]
    assert events[0]["details"]["method"] == "multicast"
    progress = [event["details"]["percent"] for event in events[:-1] if event["stage"] == "image.progress"]
    assert progress == [25, 50, 75]
    assert (tmp_path / "image").read_bytes() == CONTENT


async def test_http_takes_over_with_the_reason(tmp_path: Path) -> None:
    with server(CONTENT) as base:
        events = await fetch(tmp_path, parse_orders(reply(sources=(base,))), never("no beacon within 5 s"))
    assert told(events) == [
        ("image.source", "ok"),
        ("image.source", "degraded"),
        ("image.received", "ok"),
        ("image.verified", "ok"),
    ]
    over = events[1]
    assert over["details"] == {"method": "http", "source": base, "missing": len(manifest()["blocks"])}
    assert over["reason"] == "multicast: no beacon within 5 s"
    assert (tmp_path / "image").read_bytes() == CONTENT


async def test_a_flipped_byte_is_refused_with_source_and_hashes_and_the_next_source_is_asked(tmp_path: Path) -> None:
    wrong = bytearray(CONTENT)
    wrong[3000] ^= 1
    with server(bytes(wrong)) as bad, server(CONTENT) as good:
        events = await fetch(tmp_path, parse_orders(reply(sources=(bad, good))), never("blocked"))
    refused = next(event for event in events[:-1] if event["stage"] == "image.verified" and event["status"] == "failed")
    block = SYMBOL * SYMBOLS
    expected = hashlib.sha256(CONTENT[2 * block : 3 * block]).hexdigest()[:12]
    got = hashlib.sha256(wrong[2 * block : 3 * block]).hexdigest()[:12]
    assert refused["reason"] == (
        f"image {DIGEST[:12]} from {bad} does not match its manifest: expected {expected}, got {got} (block 2)"
    )
    assert told(events)[-1] == ("image.verified", "ok")
    assert (tmp_path / "image").read_bytes() == CONTENT


async def test_a_port_that_is_none_is_named(tmp_path: Path) -> None:
    events = await fetch(tmp_path, parse_orders(reply(sources=("http://127.0.0.1:99999",))), never("blocked"))
    assert "names no port from 0 to 65535" in str(events[-1]["error"])


async def test_when_every_source_is_wrong_the_image_is_not_there(tmp_path: Path) -> None:
    wrong = bytes(len(CONTENT))
    with server(wrong) as bad:
        events = await fetch(tmp_path, parse_orders(reply(sources=(bad,))), never("blocked"))
    error = events[-1]["error"]
    assert isinstance(error, FetchFailed)
    assert "multicast: blocked" in str(error)
    assert f"from {bad} does not match its manifest" in str(error)
    assert ("image.received", "ok") not in told(events)


async def test_blocks_that_are_right_in_a_whole_that_is_not_are_refused(tmp_path: Path) -> None:
    contradictory = manifest()
    contradictory["squashfs"]["sha256"] = "0" * 64
    events = await fetch(tmp_path, parse_orders(reply(contradictory)), everything)
    assert ("image.verified", "failed") in told(events)
    assert ("image.verified", "ok") not in told(events)
    assert isinstance(events[-1]["error"], FetchFailed)


def test_verified_blocks_stay_as_long_as_the_same_image_is_wanted(tmp_path: Path) -> None:
    room: list[int] = []
    first = parse_manifest(manifest())
    other = parse_manifest(manifest(CONTENT[::-1][:5000]))
    with Slot(tmp_path / "image", room.append) as slot:
        image = slot.open(first)
        image.block(0)[:] = CONTENT[: SYMBOL * SYMBOLS]
        assert image.verify(0)
        assert slot.open(first) is image
        assert len(slot.open(other).missing) == len(other.blocks)
    assert room == [len(CONTENT), 5000]
    assert (tmp_path / "image").stat().st_size == 5000


async def test_a_source_with_tls_is_believed_if_our_authority_says_who_it_is(tmp_path: Path) -> None:
    trust, files = certified(tmp_path)
    other, _ = certified(tmp_path / "..")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate, files.key)
    with server(CONTENT, tls) as base:
        orders = parse_orders(reply(sources=(base,)))
        nobody = await fetch(tmp_path, orders, never("blocked"))
        stranger = await fetch(tmp_path, orders, never("blocked"), other.client_context())
        assert "no certificate authority is known" in str(nobody[-1]["error"])
        assert "certificate verify failed" in str(stranger[-1]["error"]).lower()
        events = await fetch(tmp_path, orders, never("blocked"), trust.client_context())
    assert told(events)[-1] == ("image.verified", "ok")
    assert (tmp_path / "image").read_bytes() == CONTENT


async def test_beside_tls_a_source_without_it_will_do_for_what_is_verified_block_by_block(tmp_path: Path) -> None:
    trust, _ = certified(tmp_path)
    with server(CONTENT) as base:
        events = await fetch(tmp_path, parse_orders(reply(sources=(base,))), never("blocked"), trust.client_context())
    assert told(events)[-1] == ("image.verified", "ok")


def signed(key: Key, body: bytes | None = None) -> dict[str, Any]:
    whole = reply()
    right = whole["manifest"]["body"]
    signature = signatures.sign(right, key)
    whole["manifest"] = {"body": right if body is None else body, "key": key.public, "signature": signature}
    return whole


def test_a_manifest_is_read_if_an_image_key_of_this_cluster_has_signed_it() -> None:
    builder, other = Key.new(), Key.new()
    assert parse_orders(signed(builder), (other.public, builder.public)).manifest.sha256 == DIGEST
    assert parse_orders(reply(), None).manifest.sha256 == DIGEST


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, "no image key of this cluster"),
        ({"key": "", "signature": b""}, "is not signed: build"),
        ({"signature": bytes(64)}, "forged or damaged"),
        ({"body": b"{}"}, "forged or damaged"),
        ({"body": b"[" * 100_000}, "forged or damaged"),
        ({"signature": "text"}, "no body, key and signature"),
        ({"key": None}, "no body, key and signature"),
        ({"body": {}}, "no body, key and signature"),
    ],
)
def test_a_manifest_that_is_not_signed_is_refused_before_it_is_read(change: dict[str, Any], named: str) -> None:
    builder = Key.new()
    orders = signed(builder)
    orders["manifest"].update(change)
    trusted = (builder.public,) if change else (Key.new().public,)
    with pytest.raises(OrdersError, match=named) as caught:
        parse_orders(orders, trusted)
    if "no body" not in named:
        assert "not signed by an image key of this cluster" in str(caught.value)
    with pytest.raises(OrdersError):
        parse_orders(orders, ())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_no_map_is_refused(body: bytes) -> None:
    whole = reply()
    whole["manifest"]["body"] = body
    with pytest.raises(OrdersError, match=r"manifest\.body"):
        parse_orders(whole)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("style",), "disked", "boot style 'disked'"),
        (("root_size",), "50 %", "root_size"),
        (("tmp_size",), None, "tmp_size"),
        (("sources",), [], "sources"),
        (("sources",), ["ftp://head"], "ftp://head"),
        (("sources",), ["http://head:80/a b"], "source"),
        (("manifest",), None, "manifest"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_named(path: tuple[str, ...], value: object, named: str) -> None:
    data = reply()
    put(data, path, value)
    with pytest.raises(OrdersError, match=named):
        parse_orders(data)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("squashfs",), {}, "sha256"),
        (("squashfs", "size"), 0, "size"),
        (("squashfs", "size"), True, "size"),
        (("squashfs", "size"), 1 << 60, "size"),
        (("squashfs", "sha256"), "x", "sha256"),
        (("geometry", "symbol_size"), 3, "symbol size 3"),
        (("geometry", "block_symbols"), 0, "block_symbols"),
        (("blocks",), ["0" * 64], "lists 1 blocks"),
        (("blocks",), [1], "blocks"),
        (("blocks",), "0" * 64, "blocks"),
    ],
)
def test_manifests_that_contradict_themselves_are_named(path: tuple[str, ...], value: object, named: str) -> None:
    data = manifest()
    put(data, path, value)
    with pytest.raises(OrdersError, match=named):
        parse_orders(reply(data))


def put(data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value
