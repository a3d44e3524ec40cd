"""Where replies go, who a client is, and the headers of answers to clients without an address."""

import contextlib
import struct
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.dhcp_packets import MAC, request
from shoal_dhcp4 import (
    INFINIBAND,
    Datagram,
    Destination,
    LocalProtocolError,
    MessageType,
    Op,
    Option,
    Packet,
    RemoteProtocolError,
    checksum,
    destination,
    hardware_address,
    unwrap,
    wrap,
)

YIADDR, CIADDR, GIADDR = IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3"), IPv4Address("10.9.0.1")
EVERYONE = IPv4Address("255.255.255.255")
IB_ADDRESS = bytes.fromhex("80000404fe800000000000000002c903000a1b2c")


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (MessageType.OFFER, {"yiaddr": YIADDR}, Destination(YIADDR, 68, MAC)),
        (MessageType.ACK, {"yiaddr": YIADDR}, Destination(YIADDR, 68, MAC)),
        (MessageType.OFFER, {"yiaddr": YIADDR, "flags": 0x8000}, Destination(EVERYONE, 68)),
        (MessageType.OFFER, {"yiaddr": YIADDR, "flags": 0x7FFF}, Destination(YIADDR, 68, MAC)),
        (MessageType.ACK, {"yiaddr": YIADDR, "ciaddr": CIADDR, "flags": 0x8000}, Destination(CIADDR, 68)),
        (MessageType.NAK, {}, Destination(EVERYONE, 68)),
        (MessageType.NAK, {"ciaddr": CIADDR}, Destination(EVERYONE, 68)),
        (MessageType.NAK, {"giaddr": GIADDR}, Destination(GIADDR, 67)),
        (MessageType.ACK, {"yiaddr": YIADDR, "ciaddr": CIADDR, "giaddr": GIADDR}, Destination(GIADDR, 67)),
        (MessageType.OFFER, {"yiaddr": YIADDR, "htype": INFINIBAND, "chaddr": b""}, Destination(EVERYONE, 68)),
    ],
)
def test_where_a_reply_goes(kind: MessageType, fields: dict[str, Any], expected: Destination) -> None:
    assert destination(replace(request(kind), op=Op.REPLY, **fields)) == expected


def infiniband(client_identifier: str | None) -> Packet:
    options = {} if client_identifier is None else {Option.CLIENT_IDENTIFIER: bytes.fromhex(client_identifier)}
    return request(MessageType.DISCOVER, options, htype=INFINIBAND, chaddr=b"")


def test_the_address_of_an_ethernet_client() -> None:
    assert hardware_address(request(MessageType.DISCOVER)) == MAC


@pytest.mark.parametrize("duid", ["0003 0020", "0001 0020 01020304"])
def test_the_address_of_an_infiniband_client_is_in_its_identifier(duid: str) -> None:
    assert hardware_address(infiniband("ff 00000001" + duid + IB_ADDRESS.hex())) == IB_ADDRESS


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (request(MessageType.DISCOVER, htype=6), "hardware type 6"),
        (request(MessageType.DISCOVER, chaddr=MAC[:5]), "5 octets"),
        (request(MessageType.DISCOVER, chaddr=MAC + bytes(10)), "16 octets"),
        (request(MessageType.DISCOVER, chaddr=bytes(6)), "null address"),
        (request(MessageType.DISCOVER, chaddr=bytes.fromhex("015400770011")), "group"),
        (infiniband(None), "without option 61"),
        (infiniband(""), "not of type 255"),
        (infiniband("01525400770011"), "not of type 255"),
        (infiniband("ff0000"), "holds no InfiniBand address"),
        (infiniband("ff00000001 00030001" + IB_ADDRESS.hex()), "holds no InfiniBand address"),
        (infiniband("ff00000001 00030020" + IB_ADDRESS.hex()[2:]), "holds no InfiniBand address"),
    ],
)
def test_a_client_without_a_sound_address_is_refused(packet: Packet, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        hardware_address(packet)


def datagram(payload: bytes = b"payload") -> Datagram:
    return Datagram(IPv4Address("10.77.0.1"), 67, IPv4Address("10.77.0.11"), 68, payload)


def test_headers_byte_by_byte() -> None:
    raw = wrap(datagram(b"ab"))
    assert raw[:10] == bytes.fromhex("45 00 001e 0000 4000 40 11")
    assert raw[12:28] == bytes.fromhex("0a4d0001 0a4d000b 0043 0044 000a") + raw[26:28]
    assert raw[28:] == b"ab"


def summed(data: bytes) -> int:
    """RFC 1071 as it is written: add 16-bit words, fold the carries, complement."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - int(total)


@given(st.binary(max_size=1500) | st.integers(0, 40).map(bytes) | st.integers(1, 9).map(lambda n: b"\xff" * n))
def test_the_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    assert checksum(data) == summed(data)


@given(st.binary(max_size=2000), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_every_datagram_survives_its_bytes(payload: bytes, source: int, target: int, port: int) -> None:
    sent = Datagram(IPv4Address(source), port, IPv4Address(target), 65535 - port, payload)
    assert unwrap(wrap(sent)) == sent


@given(st.data())
def test_a_flipped_bit_is_noticed(data: st.DataObject) -> None:
    raw = bytearray(wrap(datagram()))
    position = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[position // 8] ^= 1 << position % 8
    with pytest.raises(RemoteProtocolError):
        unwrap(bytes(raw))


@given(st.binary(max_size=100))
def test_any_bytes_are_a_datagram_or_a_remote_error(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        unwrap(data)


def test_the_link_layers_padding_is_cut_off() -> None:
    assert unwrap(wrap(datagram(b"ab")) + bytes(20)) == datagram(b"ab")


def test_a_datagram_has_a_largest_size() -> None:
    assert len(wrap(datagram(bytes(65507)))) == 65535
    with pytest.raises(LocalProtocolError, match="65508 bytes"):
        wrap(datagram(bytes(65508)))
