"""IPv4 and UDP headers around a payload, for answers to clients that have no address and answer no ARP.

Source: RFC 791, RFC 768, RFC 1071. Fragments and IP options do not occur in DHCP and are refused.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from shoal_dhcp4.errors import LocalProtocolError, RemoteProtocolError

_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!4s4sBBH")
_VERSION_AND_LENGTH: Final = 0x45
_DO_NOT_FRAGMENT: Final = 0x4000
_TTL: Final = 64
_UDP_PROTOCOL: Final = 17
_LARGEST: Final = 0xFFFF - _IP.size - _UDP.size


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP payload with where it comes from and goes to."""

    source: IPv4Address
    source_port: int
    destination: IPv4Address
    destination_port: int
    payload: bytes


def wrap(datagram: Datagram) -> bytes:
    """The IP packet, both checksums filled in. Raises LocalProtocolError for more than 65,507 bytes."""
    if len(datagram.payload) > _LARGEST:
        raise LocalProtocolError(f"{len(datagram.payload)} bytes do not fit into a datagram: at most {_LARGEST}")
    source, destination = datagram.source.packed, datagram.destination.packed
    length = _UDP.size + len(datagram.payload)
    ports = (datagram.source_port, datagram.destination_port)
    pseudo = _PSEUDO.pack(source, destination, 0, _UDP_PROTOCOL, length)
    # A computed zero is sent as all ones: zero would say "no checksum" (RFC 768).
    udp_sum = checksum(pseudo + _UDP.pack(*ports, length, 0) + datagram.payload) or 0xFFFF
    fixed = (_VERSION_AND_LENGTH, 0, _IP.size + length, 0, _DO_NOT_FRAGMENT, _TTL, _UDP_PROTOCOL)
    ip_sum = checksum(_IP.pack(*fixed, 0, source, destination))
    return _IP.pack(*fixed, ip_sum, source, destination) + _UDP.pack(*ports, length, udp_sum) + datagram.payload


def unwrap(data: bytes) -> Datagram:
    """The datagram in an IP packet. Raises RemoteProtocolError if it is none, or a checksum does not fit."""
    if len(data) < _IP.size + _UDP.size or data[0] != _VERSION_AND_LENGTH:
        raise RemoteProtocolError("no IPv4 packet with a plain header")
    (_, _, total, _, fragment, _, protocol, _, source, destination) = _IP.unpack_from(data)
    if protocol != _UDP_PROTOCOL or fragment & ~_DO_NOT_FRAGMENT or not _IP.size + _UDP.size <= total <= len(data):
        raise RemoteProtocolError("no whole UDP datagram")
    if checksum(data[: _IP.size]):
        raise RemoteProtocolError("the checksum of the IP header does not fit")
    udp = data[_IP.size : total]
    source_port, destination_port, length, udp_sum = _UDP.unpack_from(udp)
    if length != len(udp):
        raise RemoteProtocolError(f"the UDP header speaks of {length} bytes, the IP header of {len(udp)}")
    if udp_sum and checksum(_PSEUDO.pack(source, destination, 0, protocol, length) + udp):
        raise RemoteProtocolError("the UDP checksum does not fit")
    return Datagram(IPv4Address(source), source_port, IPv4Address(destination), destination_port, udp[_UDP.size :])


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071), 0 where data contains a right one.

    The ones' complement sum of 16-bit words is the number modulo 65,535, because 65,536 is 1 there; Python divides a
    large number far faster than it adds words. Data that is not all zero never sums up to 0, but to 65,535.
    """
    number = int.from_bytes(data + b"\0" if len(data) % 2 else data, "big")
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))
