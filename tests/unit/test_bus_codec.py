"""Bodies on the bus: what goes in comes out, and what is no body is an error that says so."""

import contextlib
import os
import tracemalloc
import zlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from shoal_bus import codec, limits
from shoal_bus.errors import Invalid, TooLarge

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(), children, max_size=5),
    max_leaves=20,
)


class Inner(BaseModel):
    at: datetime
    data: bytes = b""


class Outer(BaseModel):
    items: list[Inner]


@given(st.dictionaries(st.text(), PLAIN))
def test_maps_survive(data: dict[str, object]) -> None:
    assert codec.unpack(codec.pack(data)) == data


@given(st.binary(max_size=200))
def test_any_bytes_are_a_map_or_invalid(body: bytes) -> None:
    with contextlib.suppress(Invalid):
        assert isinstance(codec.unpack(body), dict)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not msgpack"),
        (b"\xc0", "must be a map, not NoneType"),
        (b"\x90", "must be a map, not list"),
        (b"\x81\x01\x02", "not msgpack"),
        (b"\x80\x80", "not msgpack"),
        (b"\xdf\xff\xff\xff\xff", "not msgpack"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "not msgpack"),
        (b"\x81\xa1a" * 5000, "not msgpack"),
        (b"\x81\xa1a\xa1\xff", "not msgpack"),
        (b"\x81\xa1a\xd4\x01\x00", "an item begins with 0xd4"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "not msgpack"),
    ],
)
def test_what_is_no_map_is_invalid(body: bytes, told: str) -> None:
    with pytest.raises(Invalid, match=told):
        codec.unpack(body)


def _list_of(count: int, item: bytes) -> bytes:
    return b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + item * count


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (_list_of(8_000_000, b"\x90"), "more than 1000000 items"),
        (_list_of(50_000, b"\xdc\x00\x32" + b"\x80" * 50), "more than 1000000 items"),
        (b"\x81\xa1a" + b"\xdd\x00\x0f\x00\x00" * 500 + bytes(990_000), "491520003 should be"),
        (_list_of((8 << 20) - 7, b"\x00"), "8388609 bytes; 8388608 are the most"),
    ],
)
def test_a_few_bytes_on_the_wire_cannot_cost_hundreds_of_megabytes(body: bytes, told: str) -> None:
    assert len(zlib.compress(body)) < 35_000
    with pytest.raises(Invalid, match=told):
        codec.unpack(body)


@pytest.mark.parametrize("item", [b"\x80", b"\x90", b"\x81\xa0\x80", b"\x91\x90", b"\xa4" + "ДД".encode(), b"\xc4\x00"])
def test_what_a_body_becomes_stays_in_proportion_to_its_items(item: bytes) -> None:
    body = _list_of(20_000, item)
    tracemalloc.start()
    try:
        codec.unpack(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(body)
    assert peak < 100 * 20_000 * (3 if item[0] == 0x81 else 2 if item[0] == 0x91 else 1)


def test_a_message_of_ten_thousand_nodes_passes() -> None:
    nodes = {f"n{n:05}": {"mac": "52:54:00:77:00:11", "state": {str(i): i for i in range(40)}} for n in range(10_000)}
    assert codec.unpack(codec.pack(nodes)) == nodes


def test_messages_keep_times_and_bytes() -> None:
    message = Outer(items=[Inner(at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), data=bytes(range(256)))])
    assert codec.decode(codec.encode(message), Outer) == message


def test_a_field_that_does_not_fit_is_named() -> None:
    with pytest.raises(Invalid, match=r"^Outer: items\.1\.at: "):
        codec.decode(codec.pack({"items": [{"at": "2026-01-01T00:00:00Z"}, {"at": "yesterday"}]}), Outer)


def test_what_cannot_stand_in_a_message_is_our_own_error() -> None:
    with pytest.raises(TypeError, match="set cannot stand in a message"):
        codec.pack({"a": {1, 2}})


@pytest.mark.parametrize("size", [0, 1, 128 << 10, (128 << 10) + 1, 3 << 20])
def test_large_bodies_shrink_and_grow_again(size: int) -> None:
    body = (b"node-000123 10.77.0.1 " * (size // 20 + 1))[:size]
    squeezed, headers = codec.squeeze(body)
    assert codec.expand(squeezed, headers.get(codec.CONTENT_ENCODING)) == body
    assert bool(headers) == (size > 128 << 10)
    assert len(squeezed) <= max(size // 10, 128 << 10)


@given(st.binary(max_size=100))
def test_no_deflated_body_is_anything_but_content_or_invalid(body: bytes) -> None:
    with contextlib.suppress(Invalid):
        assert len(codec.expand(body, "deflate")) < 200_000


def test_a_body_is_cut_off_or_too_large() -> None:
    squeezed, _ = codec.squeeze(os.urandom(1 << 20))
    with pytest.raises(Invalid, match="cut off"):
        codec.expand(squeezed[:-10], "deflate")
    with pytest.raises(Invalid, match="larger than 8388608 bytes"):
        codec.expand(zlib.compress(bytes((8 << 20) + 1)), "deflate")
    with pytest.raises(TooLarge, match="8388609 bytes are more than a message may hold"):
        codec.squeeze(bytes((8 << 20) + 1))
    with pytest.raises(Invalid, match="only 'deflate' is known"):
        codec.expand(b"", "zstd")


FROM_NODES: tuple[str, ...] = (
    "rpc.auth.v1.announce-reboot.n001",
    "told.boot.n001.stage1.start",
    "evt.boot.n001.stage1.start",
)
FROM_NODES += ("evt.node.n001.log", "node.n001.heartbeat")
OURS = ("rpc.registry.v1.apply", "node.n001.options", "evt.image.compute.published", "_INBOX.fleet.1.2")


@pytest.mark.parametrize("subject", FROM_NODES)
def test_what_a_node_sends_is_small_and_costs_little(subject: str) -> None:
    most = limits.of(subject)
    lines = {"lines": ["\U0001f41f" * 300] * 200}
    assert codec.unpack(codec.expand(codec.pack(lines), None, most), most) == lines
    with pytest.raises(Invalid, match="is deflated"):
        codec.expand(zlib.compress(codec.pack(lines)), "deflate", most)
    for large, told in ((_list_of(4100, b"\x00"), "more than 4096 items"), (bytes(262_145), "262144 are the most")):
        with pytest.raises(Invalid, match=told):
            codec.unpack(large, most)


@pytest.mark.parametrize("subject", OURS)
def test_what_services_and_operators_send_may_be_large(subject: str) -> None:
    assert limits.of(subject) == limits.OURS


def test_what_a_command_put_out_may_be_all_that_a_node_sends_back_and_is_few_things() -> None:
    most, reply = limits.of_answer("node.n001.exec"), {"stdout": os.urandom(256 << 10), "stderr": bytes(256 << 10)}
    body, headers = codec.squeeze(codec.pack(reply))
    assert codec.unpack(codec.expand(body, headers[codec.CONTENT_ENCODING], most), most) == reply
    with pytest.raises(Invalid, match="larger than 1048576 bytes"):
        codec.expand(zlib.compress(bytes((1 << 20) + 1)), "deflate", most)
    assert limits.of_answer("rpc.registry.v1.export") == limits.OURS
