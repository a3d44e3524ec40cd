"""A session's thread: the socket, and the loop around the sending machine. The event loop only leaves notes for it.

Everything that touches the machine happens in this thread; what others want is a callable in `tell`, what they may
know is the immutable `status`.
"""

import errno
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from shoal_mcast import net
from shoal_mcast.sender import Burst, Sender, SenderStatus

_SEND_BUFFER = 4 << 20
_NO_GSO = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP})
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 10, 0
_SHORT = 0.002
_LONGEST = 0.05
_REPORTS_AT_ONCE = 512
_LARGEST_REPORT = 2048
_STATUS_AGE = 0.05


@dataclass(frozen=True)
class Route:
    """Where a session is sent from and to: our address, the interface (None: the one with that address), the group."""

    source: str
    interface: str | None
    group: str
    port: int


def open_socket(route: Route, segment: int) -> socket.socket:
    """The session's one socket: sends to the group, takes the reports. Raises OSError."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        interface = struct.pack(
            "@4s4si", bytes(4), socket.inet_aton(route.source), net.interface_index(route.interface)
        )  # struct ip_mreqn
        udp.bind((route.source, 0))
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        net.force_buffer(udp, net.SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER)
        net.set_segmentation(udp, segment)
    except BaseException:
        udp.close()
        raise
    return udp


class Transmitter:
    """Runs one session until it is over. What the network refuses is a loss like any other, kept in `trouble`."""

    def __init__(self, sender: Sender, udp: socket.socket, route: Route) -> None:
        self.status: SenderStatus = sender.status
        self.trouble: OSError | None = None
        self.control_port: int = udp.getsockname()[1]
        self._sender = sender
        self._udp = udp
        self._target = (route.group, route.port)
        self._notes: deque[Callable[[Sender, float], None]] = deque()
        self._lock = threading.Lock()
        self._over = False
        self._gso = True
        self._thread = threading.Thread(target=self._run, name=f"session-{sender.session:08x}", daemon=True)

    def start(self) -> None:
        """Begin with beacons."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def tell(self, note: Callable[[Sender, float], None]) -> bool:
        """Have something done to the machine, at its time; False if the session is over."""
        with self._lock:
            if not self._over:
                self._notes.append(note)
            return not self._over

    def join(self, timeout: float) -> None:
        """Wait for the thread to end (seconds)."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            with self._udp:
                self._loop()
        finally:
            with self._lock:
                self._over = True
            self.status = self._sender.status

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._udp, select.POLLIN)
        tell_at = 0.0
        while not self._finished():
            now = time.monotonic()
            while self._notes:
                self._notes.popleft()(self._sender, now)
            self._take_reports(now)
            if now >= tell_at:
                tell_at = now + _STATUS_AGE
                self.status = self._sender.status
            burst = self._sender.next(now)
            if burst is not None:
                self._send(burst)
                continue
            pause = self._sender.wait(now)
            if pause < _SHORT:
                time.sleep(pause)  # poll() counts in milliseconds: too coarse for pacing
            else:
                poll.poll(min(pause, _LONGEST) * 1000)

    def _finished(self) -> bool:
        with self._lock:
            self._over = self._sender.ended and not self._notes
            return self._over

    def _take_reports(self, now: float) -> None:
        for _ in range(_REPORTS_AT_ONCE):
            try:
                data, (address, _) = self._udp.recvfrom(_LARGEST_REPORT, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._sender.receive(data, address, now)

    def _send(self, burst: Burst) -> None:
        step = len(burst.parts) // burst.segments
        try:
            if self._gso or burst.segments == 1:
                self._udp.sendmsg(burst.parts, (), 0, self._target)
                return
            for start in range(0, len(burst.parts), step):
                self._udp.sendmsg(burst.parts[start : start + step], (), 0, self._target)
        except OSError as error:
            if self._gso and burst.segments > 1 and error.errno in _NO_GSO:
                self._gso = False  # a driver that cannot cut datagrams says so at its first burst
                net.set_segmentation(self._udp, 0)
                self._send(burst)
            else:  # a full queue, a firewall, a link that is down: the receivers will ask again
                self.trouble = error
