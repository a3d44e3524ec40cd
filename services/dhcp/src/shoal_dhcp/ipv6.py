"""The socket on which router solicitations of registered nodes are answered; see `solicitation`."""

import asyncio
import socket
import struct
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from structlog.stdlib import BoundLogger

from shoal_dhcp import metrics
from shoal_dhcp.answers import Find
from shoal_dhcp.solicitation import ADVERTISEMENT, SOLICITATION, solicitor
from shoal_model.resolve import Unresolvable

_ICMPV6_FILTER: Final = 1
_ALL_ROUTERS: Final = "ff02::2"
_LINK_LOCAL: Final = "fe80:"
_HOP_LIMIT: Final = 255
"""Of every message of neighbour discovery; others are not believed (RFC 4861, section 6.1.2)."""
_LARGEST_MESSAGE: Final = 1500


class Advertiser:
    """Answers while in the context. A head without IPv6 does without: nodes boot all the same, only later."""

    def __init__(self, interface: str, find: Find, log: BoundLogger) -> None:
        self._interface = interface
        self._find = find
        self._log = log
        self._open = ExitStack()

    def __enter__(self) -> Self:
        try:
            icmp = self._open.enter_context(_icmp_socket(self._interface))
        except OSError as error:
            self._log.warning("dhcp.no_ipv6", reason=str(error), effect="each iPXE waits 16 s for an IPv6 router")
            return self
        loop = asyncio.get_running_loop()
        loop.add_reader(icmp, self._receive, icmp)
        self._open.callback(loop.remove_reader, icmp)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _receive(self, icmp: socket.socket) -> None:
        try:
            message, sender = icmp.recvfrom(_LARGEST_MESSAGE)
            if sender[0].startswith(_LINK_LOCAL) and self._is_registered(solicitor(message)):
                icmp.sendto(ADVERTISEMENT, sender)
                metrics.ADVERTISEMENTS.inc()
        except BlockingIOError:
            return
        except OSError as error:  # our own address may be tentative yet: iPXE solicits again
            self._log.warning("dhcp.advertisement_failed", interface=self._interface, reason=str(error))

    def _is_registered(self, mac: bytes | None) -> bool:
        try:
            return mac is not None and self._find(mac) is not None
        except Unresolvable:
            return False


def _icmp_socket(interface: str) -> socket.socket:
    """Takes router solicitations to all routers of the interface's link, and nothing else."""
    icmp = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    try:
        icmp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        icmp.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, _all_but(SOLICITATION))
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _HOP_LIMIT)
        group = socket.inet_pton(socket.AF_INET6, _ALL_ROUTERS) + struct.pack("@I", socket.if_nametoindex(interface))
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    except OSError:
        icmp.close()
        raise
    return icmp


def _all_but(kind: int) -> bytes:
    """Linux' ICMPv6 filter: one bit for each type, set for those that are kept away (RFC 3542, section 3.2)."""
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("@8I", *words)
