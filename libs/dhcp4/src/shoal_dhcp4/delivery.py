"""Where a server's reply goes (RFC 2131, section 4.1)."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from shoal_dhcp4.codes import CLIENT_PORT, ETHERNET, SERVER_PORT, MessageType
from shoal_dhcp4.packet import ANY, Packet

LIMITED_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Destination:
    """An address and a port. With `hardware`, the client answers no ARP yet: the frame must name it directly."""

    address: IPv4Address
    port: int
    hardware: bytes | None = None


def destination(reply: Packet) -> Destination:
    """Where a reply goes; it carries the request's `giaddr`, `ciaddr`, `chaddr` and flags, as RFC 2131 table 3 has it.

    A NAK without a relay is a broadcast, whatever the client holds to be its address.
    """
    if reply.giaddr != ANY:
        return Destination(reply.giaddr, SERVER_PORT)
    if reply.message_type is MessageType.NAK:
        return Destination(LIMITED_BROADCAST, CLIENT_PORT)
    if reply.ciaddr != ANY:
        return Destination(reply.ciaddr, CLIENT_PORT)
    # A frame to an InfiniBand client needs more than its address: those ask for broadcasts (RFC 4390, section 2.1).
    if reply.broadcast or reply.htype != ETHERNET or reply.yiaddr == ANY:
        return Destination(LIMITED_BROADCAST, CLIENT_PORT)
    return Destination(reply.yiaddr, CLIENT_PORT, reply.chaddr)
