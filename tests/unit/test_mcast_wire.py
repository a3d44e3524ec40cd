"""The datagrams of mcast/1: what is written is what is read, and nothing else is read."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_mcast import wire
from shoal_mcast.geometry import MAX_BLOCKS, Geometry
from shoal_mcast.wire import Beacon, Done, End, Poll, Progress, Report, State, WireError

U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFF_FFFF)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    symbol_size, block_symbols = draw(st.integers(64, 65_000)), draw(st.integers(1, 65_535))
    return Geometry(draw(st.integers(1, MAX_BLOCKS * symbol_size * block_symbols)), symbol_size, block_symbols)


FROM_SENDER = st.one_of(
    st.builds(Beacon, U32, U32, st.sampled_from(State), geometries(), U16, st.binary(min_size=32, max_size=32)),
    st.builds(Poll, U32, U32, U16, U16),
    st.builds(End, U32),
)
FROM_RECEIVER = st.one_of(
    st.builds(Report, U32, U32, U32, st.lists(st.tuples(U16, U16), max_size=wire.MAX_PAIRS).map(tuple)),
    st.builds(Progress, U32, U32, U32, U32, U32),
    st.builds(Done, U32, U32),
)


@given(FROM_SENDER)
def test_what_a_sender_writes_a_receiver_reads(message: wire.FromSender) -> None:
    assert wire.decode_from_sender(message.encode()) == message


@given(FROM_RECEIVER)
def test_what_a_receiver_writes_a_sender_reads(message: wire.FromReceiver) -> None:
    assert len(message.encode()) <= 1400
    assert wire.decode_from_receiver(message.encode()) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    for decode in (wire.decode_from_sender, wire.decode_from_receiver):
        try:
            message = decode(data)
        except WireError:
            continue
        assert message.encode()[:4] == data[:4]


@given(FROM_SENDER | FROM_RECEIVER, st.data())
def test_cut_or_lengthened_messages_are_refused(message: wire.FromSender, data: st.DataObject) -> None:
    whole = message.encode()
    decode = wire.decode_from_receiver if whole[6] >= wire.REPORT else wire.decode_from_sender
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(WireError):
        decode(whole[:cut])
    with pytest.raises(WireError):
        decode(whole + b"\0")


def test_the_bytes_are_the_ones_that_were_agreed() -> None:
    geometry = Geometry(3_000_000, 1448, 1024)
    beacon = Beacon(0x51A7C0DE, 7, State.SENDING, geometry, 25, b"\xab" * 32)
    expected = "51a7c0de 0003 03 00 00000007" + "01 01 05a8 0400 0019 00000000002dc6c0" + "ab" * 32
    assert beacon.encode().hex() == expected.replace(" ", "")
    report = Report(1, 2, 3, ((4, 5), (6, 7)))
    assert report.encode().hex() == "00000001000010000000000200000003000000020004000500060007"
    assert Progress(1, 2, 3, 4, 5).encode().hex() == "000000010000110000000002000000030000000400000005"


def test_a_beacon_of_another_version_or_geometry_is_refused() -> None:
    whole = bytearray(Beacon(1, 2, State.SENDING, Geometry(3_000_000, 1448, 1024), 25, bytes(32)).encode())
    other_version, other_blocks, no_size = bytearray(whole), bytearray(whole), bytearray(whole)
    other_version[12] = 2
    other_blocks[4:6] = struct.pack("!H", 9)
    no_size[20:28] = bytes(8)
    for data, said in ((other_version, "version 2"), (other_blocks, "9 blocks"), (no_size, "wrong content")):
        with pytest.raises(WireError, match=said):
            wire.decode_from_sender(bytes(data))


@given(st.lists(st.tuples(U16, U16), max_size=2000))
def test_long_reports_are_cut_into_datagrams_and_lose_nothing(missing: list[tuple[int, int]]) -> None:
    told = list(wire.reports(1, 2, 3, missing))
    assert [pair for report in told for pair in report.missing] == missing
    assert told


@pytest.mark.parametrize(
    ("size", "symbol", "block"),
    [(0, 1448, 1024), (-1, 1448, 1024), (10, 63, 1), (10, 65_001, 1), (10, 64, 0), (10, 64, 65_536),
     (64 * 65_535 + 1, 64, 1)],
)  # fmt: skip
def test_impossible_geometries_are_refused(size: int, symbol: int, block: int) -> None:
    with pytest.raises(ValueError, match=r"symbol|bytes"):
        Geometry(size, symbol, block)


@given(geometries())
def test_blocks_and_symbols_cover_the_image_exactly(geometry: Geometry) -> None:
    last = geometry.blocks - 1
    assert geometry.span(last)[1] == geometry.size
    assert 1 <= geometry.symbols_in(last) <= geometry.block_symbols
    assert last * geometry.block_symbols + geometry.symbols_in(last) == geometry.symbols
