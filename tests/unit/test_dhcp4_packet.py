"""The packet codec: captured bytes, bad bytes, round trips, option overload, long options."""

import contextlib
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.dhcp_packets import MAC, captured, packed, packets, request
from shoal_dhcp4 import (
    ANY,
    DEFAULT_LIMIT,
    MINIMUM_SIZE,
    LocalProtocolError,
    MessageType,
    Op,
    Option,
    Packet,
    RemoteProtocolError,
    decode,
    encapsulate,
    encode,
    fitted,
    suboptions,
)

DISCOVER = request(MessageType.DISCOVER)
HEADER = encode(DISCOVER)[:240]


def with_options(raw: bytes, *, file: bytes = b"", sname: bytes = b"") -> bytes:
    """A packet with this options field, byte by byte."""
    return HEADER[:44] + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + HEADER[236:] + raw


def test_a_packet_byte_by_byte() -> None:
    packet = Packet(
        op=Op.REPLY, xid=0xDEADBEEF, chaddr=MAC, hops=1, secs=2, flags=0x8000,
        ciaddr=IPv4Address("10.0.0.1"), yiaddr=IPv4Address("10.0.0.2"), siaddr=IPv4Address("10.0.0.3"),
        giaddr=IPv4Address("10.0.0.4"), sname=b"head", file=b"pxelinux.0",
        options={Option.MESSAGE_TYPE: b"\x02", Option.SUBNET_MASK: packed("255.255.255.0")},
    )  # fmt: skip
    head = "02010601 deadbeef 0002 8000 0a000001 0a000002 0a000003 0a000004 525400770011 00000000000000000000"
    expected = (
        bytes.fromhex(head) + b"head".ljust(64, b"\0") + b"pxelinux.0".ljust(128, b"\0")
        + bytes.fromhex("63825363 350102 0104ffffff00 ff")
    )  # fmt: skip
    assert encode(packet) == expected.ljust(MINIMUM_SIZE, b"\0")
    assert decode(expected) == packet


@pytest.mark.parametrize(
    ("name", "mac", "vendor_class", "architecture", "limit", "broadcast"),
    [
        ("udhcpc-discover", "525400770021", b"udhcp 1.35.0", None, 548, False),
        ("dhclient-discover", "525400770021", None, None, 548, False),
        ("ipxe-bios-discover", "525400770022", b"PXEClient:Arch:00000:UNDI:002001", 0, 1444, False),
        ("ovmf-pxe-discover", "525400770023", b"PXEClient:Arch:00007:UNDI:003000", 7, 1444, True),
        ("ovmf-http-discover", "525400770024", b"HTTPClient:Arch:00016:UNDI:003000", 16, 1444, True),
    ],
)
def test_packets_of_real_clients(
    name: str, mac: str, vendor_class: bytes | None, architecture: int | None, limit: int, broadcast: bool
) -> None:
    packet = decode(captured(name))
    assert packet.message_type is MessageType.DISCOVER
    assert packet.chaddr.hex() == mac
    assert packet.options.get(Option.VENDOR_CLASS) == vendor_class
    assert packet.architecture == architecture
    assert packet.size_limit == limit
    assert packet.broadcast is broadcast
    assert decode(encode(packet)) == packet


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are no DHCP packet: expected 240 or more"),
        (HEADER[:239], "239 bytes are no DHCP packet"),
        (b"\x03" + HEADER[1:], "op is 3"),
        (HEADER[:2] + b"\x11" + HEADER[3:], "hlen is 17"),
        (HEADER[:236] + b"\0\0\0\0", "the magic cookie is 00000000"),
        (with_options(b"\x35"), "option 53 reaches beyond the end of options"),
        (with_options(b"\x35\x02\x01"), "option 53 reaches beyond the end of options"),
        (with_options(b"\x34\x01\x04\xff"), "option 52 is 04"),
        (with_options(b"\x34\x02\x01\x01\xff"), "option 52 is 0101"),
        (with_options(b"\x34\x01\x01\xff", file=b"\x0c\xff"), "option 12 reaches beyond the end of file"),
        (with_options(b"\x34\x01\x02\xff", sname=b"\x0c\x40"), "option 12 reaches beyond the end of sname"),
        (with_options(b"\x34\x01\x01\xff", file=b"\x34\x01\x02\xff"), "option 52 stands in a field"),
    ],
)
def test_bad_bytes_are_named(data: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        decode(data)


@pytest.mark.parametrize(
    ("code", "value", "read"),
    [
        (Option.MESSAGE_TYPE, b"", "message_type"),
        (Option.MESSAGE_TYPE, b"\x09", "message_type"),
        (Option.REQUESTED_ADDRESS, b"\x0a\0\0", "requested_address"),
        (Option.SERVER_IDENTIFIER, b"\x0a\0\0\0\0", "server_identifier"),
        (Option.CLIENT_ARCHITECTURE, b"\x07", "architecture"),
        (Option.MAXIMUM_MESSAGE_SIZE, b"\x05", "size_limit"),
    ],
)
def test_an_option_of_the_wrong_length_is_refused_where_it_is_read(code: int, value: bytes, read: str) -> None:
    packet = decode(encode(replace(DISCOVER, options={code: value})))
    with pytest.raises(RemoteProtocolError):
        getattr(packet, read)


def test_absent_options_read_as_none() -> None:
    packet = replace(DISCOVER, options={})
    assert (packet.message_type, packet.requested_address, packet.server_identifier, packet.architecture) == (None,) * 4
    assert packet.size_limit == DEFAULT_LIMIT == 548


def test_a_size_below_what_every_client_takes_is_not_believed() -> None:
    packet = replace(DISCOVER, options={Option.MAXIMUM_MESSAGE_SIZE: b"\0\x40"})
    assert packet.size_limit == DEFAULT_LIMIT


def test_padding_and_a_missing_end_mark_are_taken() -> None:
    assert decode(with_options(b"\0\0\x35\x01\x03\0")).options == {53: b"\x03"}


def test_nothing_is_read_behind_the_end_mark() -> None:
    assert decode(with_options(b"\x35\x01\x03\xff\x0c\xff")).options == {53: b"\x03"}


def test_a_code_that_comes_again_is_continued() -> None:
    assert decode(with_options(b"\x0c\x02ab\x35\x01\x03\x0c\x01c\xff")).options == {12: b"abc", 53: b"\x03"}


def test_overloaded_fields_are_read_file_first() -> None:
    data = with_options(b"\x34\x01\x03\x35\x01\x03\x0c\x01a\xff", file=b"\x0c\x01b\xff", sname=b"\x0c\x01c\xff")
    packet = decode(data)
    assert packet.options == {53: b"\x03", 12: b"abc"}
    assert (packet.file, packet.sname) == (b"", b"")


@given(packets)
def test_every_packet_survives_its_bytes(packet: Packet) -> None:
    data = encode(packet)
    assert len(data) >= MINIMUM_SIZE
    assert decode(data) == packet


@given(packets, st.integers(300, 1472))
def test_a_limited_packet_is_whole_or_refused(packet: Packet, limit: int) -> None:
    try:
        data = encode(packet, limit=limit)
    except LocalProtocolError:
        with_room = encode(packet)
        assert len(with_room) > limit
        return
    assert len(data) <= limit
    assert decode(data) == packet


@given(st.binary(max_size=1500))
def test_any_bytes_are_a_packet_or_a_remote_error(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(data)


@given(st.binary(max_size=400))
def test_any_options_are_a_packet_or_a_remote_error(raw: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        packet = decode(with_options(raw, file=raw[:128], sname=raw[:64]))
        assert decode(encode(packet)) == packet


def test_what_does_not_fit_moves_into_the_free_fields() -> None:
    options = {Option.MESSAGE_TYPE: b"\x02", 200: b"x" * 250, 201: b"y" * 60, Option.RELAY_AGENT_INFORMATION: b"r" * 20}
    packet = replace(DISCOVER, op=Op.REPLY, options=options, file=b"pxelinux.0")
    data = encode(packet, limit=DEFAULT_LIMIT)
    assert len(data) <= DEFAULT_LIMIT
    assert b"\x34\x01\x02" in data[240:]  # overload: sname, because file is in use
    assert data[44:108].startswith(bytes((201, 60)))
    assert bytes((82, 20)) + b"r" * 20 in data[240:]  # relays look for it there alone
    assert decode(data) == packet


def test_a_relays_information_is_never_moved() -> None:
    options = {Option.MESSAGE_TYPE: b"\x02", 200: b"x" * 100, Option.RELAY_AGENT_INFORMATION: b"r" * 250}
    data = encode(replace(DISCOVER, options=options), limit=DEFAULT_LIMIT)
    assert bytes((82, 250)) in data[240:]
    assert data[108:110] == bytes((200, 100))


def test_dispensable_options_go_one_by_one_from_the_last() -> None:
    options = {53: b"\x02", 12: b"n" * 60, 15: b"d" * 200, 97: b"u" * 200, 82: b"r" * 100}
    packet = replace(DISCOVER, options=options, file=b"f", sname=b"s")
    kept = decode(fitted(packet, DEFAULT_LIMIT, {12, 15, 97})).options
    assert list(kept) == [53, 12, 82]
    with pytest.raises(LocalProtocolError, match="must stand in the options field"):
        fitted(replace(packet, options={53: b"\x02", 82: b"r" * 600}), DEFAULT_LIMIT, {12})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {0: b"x"}}, "option code 0"),
        ({"options": {255: b"x"}}, "option code 255"),
        ({"options": {52: b"\x01"}}, "option 52"),
        ({"xid": 2**32}, "out of range"),
        ({"hops": -1}, "out of range"),
        ({"chaddr": bytes(17)}, "17"),
        ({"file": b"x" * 129}, "129"),
        ({"sname": b"x" * 65}, "65"),
        ({"file": b"a\0b"}, "zero byte"),
    ],
)
def test_what_cannot_be_a_packet_is_our_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        encode(replace(DISCOVER, **changes))


def test_encapsulated_options_end_with_a_mark() -> None:
    assert encapsulate({6: b"\x08"}) == bytes.fromhex("060108ff")


def test_relay_suboptions() -> None:
    assert suboptions(bytes.fromhex("0102aabb 05040a000001 ff00")) == {1: b"\xaa\xbb", 5: packed("10.0.0.1"), 255: b""}
    assert suboptions(b"") == {}
    for bad in ("01", "0102aa"):
        with pytest.raises(RemoteProtocolError, match="relay sub-option 1"):
            suboptions(bytes.fromhex(bad))


def test_addresses_that_are_not_set_are_zero() -> None:
    assert DISCOVER.yiaddr == ANY
