"""DHCPv4 as values: packets, their bytes, and where a reply goes. No I/O, no clock; the standard library alone.

packet = decode(data)                    # RemoteProtocolError: theirs
data = encode(reply, limit=packet.size_limit)   # LocalProtocolError: ours
where = destination(reply)
"""

from shoal_dhcp4.codes import (
    BROADCAST_FLAG,
    CLIENT_PORT,
    ETHERNET,
    INFINIBAND,
    SERVER_PORT,
    Architecture,
    MessageType,
    Op,
    Option,
    Overload,
)
from shoal_dhcp4.datagram import Datagram, checksum, unwrap, wrap
from shoal_dhcp4.delivery import LIMITED_BROADCAST, Destination, destination
from shoal_dhcp4.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from shoal_dhcp4.identity import hardware_address
from shoal_dhcp4.options import encapsulate, suboptions
from shoal_dhcp4.packet import ANY, DEFAULT_LIMIT, MINIMUM_SIZE, Packet, decode, encode, fitted

__all__ = [
    "ANY",
    "BROADCAST_FLAG",
    "CLIENT_PORT",
    "DEFAULT_LIMIT",
    "ETHERNET",
    "INFINIBAND",
    "LIMITED_BROADCAST",
    "MINIMUM_SIZE",
    "SERVER_PORT",
    "Architecture",
    "Datagram",
    "Destination",
    "LocalProtocolError",
    "MessageType",
    "Op",
    "Option",
    "Overload",
    "Packet",
    "ProtocolError",
    "RemoteProtocolError",
    "checksum",
    "decode",
    "destination",
    "encapsulate",
    "encode",
    "fitted",
    "hardware_address",
    "suboptions",
    "unwrap",
    "wrap",
]
