"""Socket options of Linux that Python has no names for, and the node's two sockets."""

import contextlib
import socket
import struct

from shoal_mcast.session import Join

SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
UDP_SEGMENT, UDP_GRO = 103, 104
_IP_MULTICAST_ALL = 49
_MCAST_JOIN_GROUP, _MCAST_LEAVE_SOURCE_GROUP, _MCAST_JOIN_SOURCE_GROUP = 42, 47, 46
_STORAGE = 128  # sizeof(struct sockaddr_storage)


def force_buffer(udp: socket.socket, force: int, plain: int, size: int) -> None:
    """Set a socket buffer past the system's limit where we may (CAP_NET_ADMIN), up to it where not."""
    try:
        udp.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        udp.setsockopt(socket.SOL_SOCKET, plain, size)


def interface_index(interface: str | None) -> int:
    """The index of a network interface; 0 leaves the choice to the routing table. OSError names one that is missing."""
    if interface is None:
        return 0
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise OSError(error.errno, f"there is no network interface {interface!r}") from error


class DataSocket:
    """The socket that hears the group, from the sender alone. GRO is on where the kernel has it."""

    def __init__(self, join: Join, interface: str | None, buffer: int) -> None:
        self._join = join
        self._index = interface_index(interface)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._open(buffer)
        except BaseException:
            self.udp.close()
            raise

    def _open(self, buffer: int) -> None:
        udp, join = self.udp, self._join
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        force_buffer(udp, SO_RCVBUFFORCE, socket.SO_RCVBUF, buffer)
        udp.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        udp.bind((join.group, join.port))  # to the group: else other groups on this port arrive too
        self.join_source()
        # only now: connected before, the kernel would bind it to our own address
        udp.connect((join.source, join.control_port))
        with contextlib.suppress(OSError):  # before Linux 5.0 datagrams come one by one
            udp.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)

    def join_source(self) -> None:
        """Source-specific membership (RFC 4607), by interface index: an initramfs has no routes to go by."""
        try:
            self._membership(
                _MCAST_JOIN_SOURCE_GROUP, self._address(self._join.group), self._address(self._join.source)
            )
        except OSError:
            self.join_any_source()

    def join_any_source(self) -> None:
        """Membership for every source: for switches that know IGMPv2 alone. The socket still hears only the sender."""
        with contextlib.suppress(OSError):  # it was never joined that way
            source = self._address(self._join.source)
            self._membership(_MCAST_LEAVE_SOURCE_GROUP, self._address(self._join.group), source)
        self._membership(_MCAST_JOIN_GROUP, self._address(self._join.group))

    def _membership(self, option: int, *addresses: bytes) -> None:
        request = struct.pack("@I4x", self._index) + b"".join(addresses)
        self.udp.setsockopt(socket.IPPROTO_IP, option, request)

    @staticmethod
    def _address(address: str) -> bytes:
        return struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(address)).ljust(_STORAGE, b"\0")

    @property
    def buffered(self) -> int:
        """Bytes of kernel memory that the socket may hold."""
        return self.udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def control_socket(join: Join) -> socket.socket:
    """The socket for reports to the sender."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    udp.connect((join.source, join.control_port))
    return udp


def gro_size(ancillary: list[tuple[int, int, bytes]], length: int) -> int:
    """Bytes of each datagram in what one recvmsg gave."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_UDP and kind == UDP_GRO and len(value) >= 4:
            return int.from_bytes(value[:4], "little") or length
    return length


def set_segmentation(udp: socket.socket, segment: int) -> None:
    """Have the kernel cut what is sent at once into datagrams of `segment` bytes (Linux 4.18); 0: not to."""
    udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
