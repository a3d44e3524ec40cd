"""Which machine speaks: its hardware address, also where `chaddr` cannot hold it (RFC 4361, RFC 4390)."""

from typing import Final

from shoal_dhcp4.codes import ETHERNET, INFINIBAND, Option
from shoal_dhcp4.errors import RemoteProtocolError
from shoal_dhcp4.packet import Packet

_SIZES: Final = {ETHERNET: 6, INFINIBAND: 20}
_NODE_SPECIFIC = 255
_IAID_SIZE = 4
_DUID_LLT, _DUID_LL = 1, 3


def hardware_address(packet: Packet) -> bytes:
    """The client's hardware address: 6 octets (Ethernet) or 20 (InfiniBand).

    Raises RemoteProtocolError if there is none, or one that no single machine can have.
    """
    if packet.htype == INFINIBAND:
        return _from_client_identifier(packet.options.get(Option.CLIENT_IDENTIFIER))
    if packet.htype != ETHERNET:
        raise RemoteProtocolError(f"hardware type {packet.htype} is unknown: expected {ETHERNET} or {INFINIBAND}")
    address = packet.chaddr
    if len(address) != _SIZES[ETHERNET]:
        raise RemoteProtocolError(f"an Ethernet address of {len(address)} octets: expected {_SIZES[ETHERNET]}")
    if address[0] & 1 or not any(address):
        raise RemoteProtocolError(f"{address.hex(':')} is a group or null address, which no machine can have")
    return address


def _from_client_identifier(value: bytes | None) -> bytes:
    """The link-layer address in an RFC 4361 client identifier: type 255, IAID, then a DUID-LL or DUID-LLT."""
    if value is None:
        raise RemoteProtocolError("an InfiniBand client without option 61, which must name it (RFC 4390, section 2.1)")
    if not value or value[0] != _NODE_SPECIFIC:
        raise RemoteProtocolError("option 61 of an InfiniBand client is not of type 255 (RFC 4361, section 6.1)")
    duid = value[1 + _IAID_SIZE :]
    kind, hardware = int.from_bytes(duid[:2], "big"), int.from_bytes(duid[2:4], "big")
    address = {_DUID_LL: duid[4:], _DUID_LLT: duid[8:]}.get(kind)
    if address is None or hardware != INFINIBAND or len(address) != _SIZES[INFINIBAND]:
        raise RemoteProtocolError("option 61 holds no InfiniBand address: expected a DUID-LL or DUID-LLT of 20 octets")
    return address
