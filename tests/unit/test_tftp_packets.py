"""TFTP packets: bytes against the RFCs, round trips, and what an enemy may send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_tftp_protocol import (
    Ack,
    Data,
    Error,
    ErrorCode,
    Limits,
    Malformed,
    Negotiated,
    OptionAck,
    Packet,
    ReadRequest,
    WriteRequest,
    encode,
    negotiate,
    parse,
)
from shoal_tftp_protocol.options import agreed

WIRE = [
    (ReadRequest("pxelinux.0", "octet", {}), b"\0\1pxelinux.0\0octet\0"),
    (ReadRequest("a", "octet", {"tsize": "0", "blksize": "1408"}), b"\0\1a\0octet\0tsize\x000\0blksize\x001408\0"),
    (WriteRequest("x", "netascii", {}), b"\0\2x\0netascii\0"),
    (Data(1, b"abc"), b"\0\3\0\1abc"),
    (Data(65535, b""), b"\0\3\xff\xff"),
    (Ack(513), b"\0\4\2\1"),
    (Error(8, "no"), b"\0\5\0\x08no\0"),
    (OptionAck({"blksize": "1024"}), b"\0\6blksize\x001024\0"),
]


@pytest.mark.parametrize(("packet", "wire"), WIRE)
def test_bytes_are_those_of_the_rfcs(packet: Packet, wire: bytes) -> None:
    assert encode(packet) == wire
    assert parse(wire) == packet


@pytest.mark.parametrize(
    ("wire", "packet"),
    [
        (b"\0\1a\0OCTET\0BlkSize\x008\0", ReadRequest("a", "octet", {"blksize": "8"})),
        (b"\0\1a\0octet\0\0\0\0", ReadRequest("a", "octet", {})),
        (b"\0\4\0\7padding", Ack(7)),
        (b"\0\5\0\1no NUL", Error(1, "no NUL")),
        (b"\0\5\0\0", Error(0, "")),
        (b"\0\1\xff\xfe\0octet\0", ReadRequest("\udcff\udcfe", "octet", {})),
    ],
)
def test_what_firmware_sends_is_understood(wire: bytes, packet: Packet) -> None:
    assert parse(wire) == packet


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\0",
        b"\0\0",
        b"\0\7a\0",
        b"\1\0a\0octet\0",
        b"\0\3\0",
        b"\0\4",
        b"\0\5\1",
        b"\0\1",
        b"\0\1name",
        b"\0\1name\0",
        b"\0\1name\0octet",
        b"\0\1\0octet\0",
        b"\0\1name\0octet\0blksize\0",
        b"\0\1name\0octet\0tsize\x000\0TSIZE\x000\0",
        b"\0\6blksize",
    ],
)
def test_what_is_no_packet_is_malformed(wire: bytes) -> None:
    with pytest.raises(Malformed):
        parse(wire)


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
names = text.filter(bool)
options = st.dictionaries(names.map(str.lower).filter(lambda n: n == n.lower()), text, max_size=4)
blocks = st.integers(0, 65535)
packets = st.one_of(
    st.builds(ReadRequest, names, st.sampled_from(["octet", "netascii", "mail"]), options),
    st.builds(WriteRequest, names, st.sampled_from(["octet", "netascii"]), options),
    st.builds(Data, blocks, st.binary(max_size=600)),
    st.builds(Ack, blocks),
    st.builds(Error, st.sampled_from(ErrorCode).map(int), text),
    st.builds(OptionAck, options),
)


@given(packets)
def test_packets_survive_the_round_trip(packet: Packet) -> None:
    assert parse(encode(packet)) == packet


@given(
    st.binary(max_size=600)
    | st.builds(bytes.__add__, st.sampled_from([b"\0" + bytes([n]) for n in range(1, 7)]), st.binary(max_size=80))
)
def test_any_bytes_are_a_packet_or_malformed(data: bytes) -> None:
    try:
        packet = parse(data)
    except Malformed:
        return
    assert parse(encode(packet)) == packet


def test_a_string_with_nul_is_never_sent() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode(Error(0, "a\0b"))


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ({}, {}),
        ({"blksize": "1408", "tsize": "0"}, {"blksize": "1408", "tsize": "1000"}),
        ({"blksize": "65464"}, {"blksize": "1468"}),
        ({"blksize": "7"}, {}),
        ({"blksize": "65465"}, {}),
        ({"blksize": "1_408"}, {}),
        ({"blksize": "-512"}, {}),
        ({"blksize": " 512"}, {}),
        ({"blksize": "٥١٢"}, {}),
        ({"blksize": "9" * 4000}, {}),
        ({"tsize": "77"}, {"tsize": "1000"}),
        ({"tsize": "x"}, {}),
        ({"timeout": "3"}, {"timeout": "3"}),
        ({"timeout": "0"}, {}),
        ({"timeout": "200"}, {}),
        ({"windowsize": "16"}, {"windowsize": "16"}),
        ({"windowsize": "65535"}, {"windowsize": "64"}),
        ({"windowsize": "0"}, {}),
        ({"multicast": ""}, {}),
    ],
)
def test_options_granted(asked: dict[str, str], granted: dict[str, str]) -> None:
    assert negotiate(asked, 1000, Limits(block_size=1468)).granted == granted


def test_a_window_of_large_blocks_is_bounded_in_bytes() -> None:
    assert negotiate({"blksize": "65464", "windowsize": "64"}, 1, Limits()).window == 4


def test_the_size_of_an_empty_file_is_not_told() -> None:
    """curl refuses an OACK with tsize=0, and then does not fetch the file."""
    assert negotiate({"tsize": "0", "blksize": "512"}, 0, Limits()).granted == {"blksize": "512"}


def test_what_was_not_asked_for_holds_by_default() -> None:
    assert negotiate({}, 1, Limits()) == Negotiated(512, 1, None, {})


@pytest.mark.parametrize(
    "granted",
    [{"tsize": "1"}, {"blksize": "1409"}, {"blksize": "4"}, {"blksize": "x"}, {"windowsize": "17"}, {"timeout": "4"}],
)
def test_a_client_refuses_options_that_it_did_not_ask_for(granted: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="the server"):
        agreed({"blksize": "1408", "windowsize": "16", "timeout": "3"}, granted)
