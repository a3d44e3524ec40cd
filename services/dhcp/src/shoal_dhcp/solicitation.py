"""The router advertisement that spares iPXE sixteen seconds of every boot. Pure.

iPXE configures IPv4 and IPv6 side by side and goes on when both have ended. Where no IPv6 router answers, it solicits
for 16 s, long after DHCP has given it all it needs. One advertisement that offers nothing ends that: no default router
(lifetime 0), no prefix, no managed addresses, every parameter unspecified, so that no other host changes anything
because of it (RFC 4861, sections 4.2, 6.3.4).
"""

import struct
from typing import Final

SOLICITATION: Final = 133
_HEADER: Final = 8
_SOURCE_LINK_LAYER_ADDRESS: Final = 1
_ETHERNET_OPTION: Final = 8

ADVERTISEMENT: Final = struct.pack("!BBHBBHII", 134, 0, 0, 0, 0, 0, 0, 0)
"""An ICMPv6 router advertisement that offers nothing; the kernel fills in the checksum."""


def solicitor(message: bytes) -> bytes | None:
    """The Ethernet address that a router solicitation says it comes from; None if it is none, or does not say
    (RFC 4861, sections 4.1, 4.6.1).
    """
    if len(message) < _HEADER or message[0] != SOLICITATION or message[1] != 0:
        return None
    position = _HEADER
    while position + 2 <= len(message):
        kind, size = message[position], message[position + 1] * 8
        if size == 0 or position + size > len(message):
            return None
        if kind == _SOURCE_LINK_LAYER_ADDRESS:
            return message[position + 2 : position + size] if size == _ETHERNET_OPTION else None
        position += size
    return None
