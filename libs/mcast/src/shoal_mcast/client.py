"""The node's loop around the receiving machine: blocking, in a thread, without asyncio.

with ImageFile.open(path, join.geometry(), hashes) as image:
    outcome = receive_image(image, join, interface="boot0")
    if not outcome.complete:
        outcome = fetch_missing(image, urls)      # http_ranges: the remaining blocks alone
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from shoal_mcast import net, wire
from shoal_mcast.image_file import ImageFile
from shoal_mcast.receiver import Receiver
from shoal_mcast.session import Join, Outcome

Progress = Callable[[int, int], None]
"""Called about once a second: bytes of the image that are there, bytes of it in all."""

_BUFFER = 16 << 20
_COST = 4608
"""Bytes that a datagram of up to 2 KiB occupies in a socket's buffer at worst: two pages and their bookkeeping."""
_LARGEST = 1 << 17
_TICK = 0.02
_POPULATE = 4 << 20
_FAREWELLS, _FAREWELL_GAP = 3, 0.01
_LINGER = 0.5


@dataclass(frozen=True)
class Deadlines:
    """Seconds: until the first beacon, of silence, and without a new symbol once the sender sends."""

    beacon: float = 5.0
    silence: float = 10.0
    stall: float = 30.0


def receive_image(
    image: ImageFile,
    join: Join,
    *,
    interface: str | None = None,
    progress: Progress | None = None,
    deadlines: Deadlines = Deadlines(),
) -> Outcome:
    """Take part in a multicast session until the image is complete, or the outcome says why it will not be.

    `interface` is the boot NIC's name. ValueError if the session's geometry is not the image's; no OSError: what the
    network refuses is a reason in the outcome, and the caller goes on over HTTP.
    """
    if join.geometry() != image.geometry:
        raise ValueError(f"the session has {join.geometry()}, the manifest {image.geometry}")
    started = time.monotonic()
    try:
        data, control = net.DataSocket(join, interface, _BUFFER), net.control_socket(join)
    except OSError as error:
        return Outcome(False, f"multicast cannot be set up: {error}", 0, time.monotonic() - started)
    with data.udp, control:
        loop = _Loop(image, join, data, control, deadlines)
        try:
            reason = loop.run(progress or (lambda there, size: None))
        except OSError as error:
            reason = f"multicast on {join.group}:{join.port} failed: {error}"
    took = time.monotonic() - started
    return Outcome(image.complete, None if image.complete else reason, loop.gained * join.symbol_size, took)


class _Loop:
    """One session's sockets, machine and deadlines."""

    def __init__(
        self, image: ImageFile, join: Join, data: net.DataSocket, control: socket.socket, deadlines: Deadlines
    ) -> None:
        self._image = image
        self._join = join
        self._data = data
        self._control = control
        self._deadlines = deadlines
        cost = _COST * -(-(join.symbol_size + wire.HEADER_SIZE) // 2048)
        self._receiver = Receiver(image, join.session, join.receiver, data.buffered // cost)
        self._held_before = self._receiver.held
        self._started = time.monotonic()
        self._told_at = self._started
        self._any_source = False
        self._sending: float | None = None

    @property
    def gained(self) -> int:
        """Symbols that this session brought."""
        return max(0, self._receiver.held - self._held_before)

    def run(self, progress: Progress) -> str | None:
        """Until the image is complete (None) or will not be: the reason."""
        receiver, receive = self._receiver, self._data.udp.recvmsg_into
        buffer = bytearray(_LARGEST)
        buffers, space = [buffer], socket.CMSG_SPACE(4)
        poll = select.poll()
        poll.register(self._data.udp, select.POLLIN)
        check_at = 0.0
        while not self._image.complete:
            now = time.monotonic()
            if now >= check_at:
                check_at = now + _TICK
                reason = self._check(now, progress)
                if reason is not None:
                    self._finish()
                    return reason
            try:
                length, ancillary, _, _ = receive(buffers, space)
            except BlockingIOError:
                if not receiver.work() and not self._populate():
                    poll.poll(_TICK * 1000)
                continue
            receiver.receive(buffer, length, net.gro_size(ancillary, length), now)
            self._send(receiver.reports(now))
        self._say_goodbye()
        return None

    def _finish(self) -> None:
        """Verify what is there before giving up: whatever counts need not come again."""
        while self._receiver.work():
            pass
        if self._image.complete:
            self._say_goodbye()

    def _check(self, now: float, progress: Progress) -> str | None:
        """What is due by time, and the reason to stop if there is one."""
        self._send(self._receiver.reports(now))
        if now - self._told_at >= 1.0:
            self._told_at = now
            progress(min(self._receiver.held * self._join.symbol_size, self._join.size), self._join.size)
        return self._receiver.failed or self._overdue(now)

    def _overdue(self, now: float) -> str | None:
        receiver, limits, where = self._receiver, self._deadlines, f"{self._join.group}:{self._join.port}"
        if receiver.heard_at is None:
            if now - self._started > limits.beacon:
                return f"no multicast beacon from {where} within {limits.beacon:g} s"
            if now - self._started > limits.beacon / 2 and not self._any_source:
                self._any_source = True
                self._data.join_any_source()
            return None
        if receiver.ended and now - receiver.heard_at > _LINGER:
            return f"the multicast session on {where} ended before the image was complete"
        if now - receiver.heard_at > limits.silence:
            return f"the multicast sender on {where} fell silent for {limits.silence:g} s"
        if receiver.state != wire.State.SENDING:
            return None
        if self._sending is None:
            self._sending = now
        if now - max(receiver.gained_at or 0.0, self._sending) > limits.stall:
            return f"no progress from multicast on {where} within {limits.stall:g} s"
        return None

    def _populate(self) -> bool:
        """While the sender gathers its receivers, have the kernel make the file's pages."""
        waiting = self._receiver.state != wire.State.SENDING
        return waiting and self._image.populate(_POPULATE)

    def _send(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            with contextlib.suppress(OSError):  # a lost report: the sender asks again, and the deadlines tell
                self._control.send(datagram)

    def _say_goodbye(self) -> None:
        for _ in range(_FAREWELLS):
            self._send([self._receiver.farewell()])
            time.sleep(_FAREWELL_GAP)
