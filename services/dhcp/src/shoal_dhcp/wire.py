"""The sockets: UDP port 67 on one interface, and a packet socket for clients that answer no ARP yet.

Needs CAP_NET_RAW and CAP_NET_BIND_SERVICE.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from structlog.stdlib import BoundLogger

from shoal_dhcp import metrics
from shoal_dhcp.handlers import Outgoing
from shoal_dhcp4 import SERVER_PORT, Datagram, wrap
from shoal_service.errors import Fatal

_ETH_P_IP: Final = 0x0800
_ARPHRD_ETHER: Final = 1
_PACKET_OUTGOING_ONLY: Final = 0
_LARGEST_PACKET: Final = 4096
_RECEIVE_BUFFER: Final = 4 << 20
_PER_TURN: Final = 64
"""Packets taken before other tasks get their turn."""
_SAME_INTERFACE_CHECK: Final = 5.0

Handle = Callable[[bytes, datetime, float], Outgoing | None]


class InterfaceLost(Fatal):
    """The interface is not there, or no longer the one that the sockets were bound to."""


class Wire:
    """Both sockets, open while in the context."""

    def __init__(self, interface: str, log: BoundLogger, clock: Callable[[], datetime]) -> None:
        self._interface = interface
        self._log = log
        self._clock = clock
        self._index = _interface_index(interface)
        self._udp = _udp_socket(interface)
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _PACKET_OUTGOING_ONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._udp.close()
        self._raw.close()

    async def run(self, handle: Handle) -> None:
        """Answer packets until cancelled. Raises InterfaceLost when the interface goes away or is another one."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._udp, self._receive, handle)
        try:
            while True:
                await asyncio.sleep(_SAME_INTERFACE_CHECK)
                if _interface_index(self._interface) != self._index:
                    raise InterfaceLost(f"interface {self._interface} was replaced by another one of the same name")
        finally:
            loop.remove_reader(self._udp)

    def _receive(self, handle: Handle) -> None:
        for _ in range(_PER_TURN):
            try:
                data = self._udp.recv(_LARGEST_PACKET)
            except BlockingIOError:
                return
            except OSError as error:  # for instance ENETDOWN, once, when the interface goes down
                self._log.warning("dhcp.receive_failed", interface=self._interface, reason=str(error))
                return
            self._answer(handle, data)

    def _answer(self, handle: Handle, data: bytes) -> None:
        try:
            outgoing = handle(data, self._clock(), time.monotonic())
        except Exception:
            # One packet that we cannot deal with must not take the service from all the other nodes.
            metrics.DROPPED.labels("bug").inc()
            self._log.exception("dhcp.bug", packet=data[:600].hex())
            return
        if outgoing is None:
            return
        try:
            self._send(outgoing)
        except OSError as error:  # full queue, no route to a relay …: the client asks again
            metrics.SEND_ERRORS.inc()
            self._log.warning("dhcp.send_failed", to=str(outgoing.destination.address), reason=str(error))

    def _send(self, outgoing: Outgoing) -> None:
        to = outgoing.destination
        if to.hardware is None:
            self._udp.sendto(outgoing.payload, (str(to.address), to.port))
            return
        datagram = Datagram(outgoing.source, SERVER_PORT, to.address, to.port, outgoing.payload)
        self._raw.sendto(wrap(datagram), (self._interface, _ETH_P_IP, 0, _ARPHRD_ETHER, to.hardware))


def _interface_index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise InterfaceLost(
            f"there is no network interface {interface!r}: set SHOAL_INTERFACE to one that `ip link` shows"
        ) from None


def _udp_socket(interface: str) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        udp.bind(("0.0.0.0", SERVER_PORT))
    except OSError as error:
        udp.close()
        raise Fatal(
            f"cannot listen on UDP port {SERVER_PORT} of {interface}: {error.strerror}; "
            "is another DHCP server running there, and may this process use the port (root, or CAP_NET_BIND_SERVICE)?",
        ) from error
    return udp
