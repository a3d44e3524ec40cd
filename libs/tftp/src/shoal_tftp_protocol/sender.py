"""The server's side of a read request: sends one file to one client."""

from collections import deque

from shoal_tftp_protocol.events import ContentWanted, Ended, Event, Outcome
from shoal_tftp_protocol.options import Limits, negotiate
from shoal_tftp_protocol.packets import (
    Ack,
    Address,
    Error,
    ErrorCode,
    Malformed,
    OptionAck,
    ReadRequest,
    data_packet,
    encode,
    parse,
)
from shoal_tftp_protocol.timing import Retransmission

READ_AHEAD = 128 * 1024
"""Bytes asked for at a time; at most twice this and a window is held."""
_MODES = ("octet", "netascii")


class Sender:
    """One transfer to one client.

    Blocks are counted from 1 without bound; the wire carries the count modulo 65536, so a file may have any number of
    blocks. `_acked` is the last block the client has, `_next` the one to send; what lies between is under way and never
    more than a window. A duplicate ACK never causes a retransmission by itself (the Sorcerer's Apprentice): with
    windows it only brings the timer forward.
    """

    def __init__(
        self, request: ReadRequest, peer: Address, size: int, now: float, limits: Limits | None = None
    ) -> None:
        """Begin to answer `request` of the client at `peer` with a file of `size` bytes.

        Raises ValueError for a mode other than octet and netascii.
        """
        if request.mode not in _MODES:
            raise ValueError(f"transfer mode {request.mode!r} is not supported: use octet")
        limits = limits or Limits()
        self._peer = peer
        self.size = size
        self._netascii = request.mode == "netascii"
        self.negotiated = negotiate(request.options, None if self._netascii else size, limits)
        self.heard = False
        """Whether the client has answered anything yet: until then, the same request again is a repetition."""
        self._timer = Retransmission(now, patience=limits.patience)
        if self.negotiated.timeout is not None:
            self._timer.fix(self.negotiated.timeout)
        self._offer = encode(OptionAck(self.negotiated.granted)) if self.negotiated.granted else None
        self._acked, self._next = 0, 1
        self._buffer, self._buffer_start = memoryview(b""), 0
        self._asked = self._received = 0
        self._ended = False
        self._out: deque[tuple[bytes, Address]] = deque()
        self._events: deque[Event] = deque()
        if self._offer is not None:
            self._send_offer(now)
        else:
            self._proceed(now)

    # --- what the driver calls --------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram that reached the transfer's port. Garbage is ignored: the timer mends what it stood for."""
        try:
            packet = parse(data)
        except Malformed:
            return
        if address != self._peer:
            # RFC 1350 section 4: tell the stranger, and do not disturb the transfer. Never answer ERROR with ERROR.
            if not isinstance(packet, Error):
                self._out.append((encode(Error(ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer ID")), address))
            return
        if self._ended:
            return
        self.heard = True
        if isinstance(packet, Ack):
            self._receive_ack(packet.block, now)
        elif isinstance(packet, Error):
            self._receive_error(packet)
        else:
            self.abort(f"{type(packet).__name__} has no place in a read transfer", ErrorCode.ILLEGAL_OPERATION)

    def receive_content(self, data: bytes, now: float) -> None:
        """Take the bytes that the last ContentWanted asked for. Fewer: the file shrank, and the transfer fails."""
        if self._ended:
            return
        if len(data) != self._asked - self._received:
            self.abort(f"the file ends at {self._received + len(data)} of {self.size} bytes")
            return
        self._received = self._asked
        if self._netascii:
            # RFC 764 via RFC 1350: a line ends in CR LF, a bare CR is CR NUL.
            data = data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
        keep = self._acked * self.negotiated.block_size - self._buffer_start
        self._buffer = memoryview(b"".join((self._buffer[keep:], data)))
        self._buffer_start += keep
        self._proceed(now)

    def handle_timer(self, now: float) -> None:
        """Send again what was not acknowledged in time, or give up."""
        if self._ended or not self._timer.expired(now):
            return
        if self._timer.hopeless(now):
            self._end(Outcome.TIMED_OUT, self._silence())
        elif self._offer is not None:
            self._send_offer(now)
        else:
            self._next = self._acked + 1
            self._proceed(now)

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called; None: there is nothing to wait for."""
        return None if self._ended else self._timer.due

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """What must go out now, in order. Each is given once."""
        datagrams = list(self._out)
        self._out.clear()
        return datagrams

    def next_event(self) -> Event | None:
        """The next thing that happened, or None."""
        return self._events.popleft() if self._events else None

    def abort(self, reason: str, code: ErrorCode = ErrorCode.UNDEFINED) -> None:
        """End the transfer from this side, and tell the client why."""
        if not self._ended:
            self._out.append((encode(Error(code, reason)), self._peer))
            self._end(Outcome.FAILED, reason)

    # --- how it goes on ---------------------------------------------------------------------------------------

    def _receive_ack(self, wire: int, now: float) -> None:
        ahead = (wire - self._acked) & 0xFFFF
        if self._offer is not None:
            if wire == 0:
                self._offer = None
                self._timer.answered(now)
                self._proceed(now)
            return
        if ahead == 0 and self.negotiated.window > 1:
            self._timer.hint()
        if ahead == 0 or ahead >= self._next - self._acked:
            return  # an old one, or one for a block that was never sent
        self._acked += ahead
        self._timer.answered(now)
        if self._acked == self._last_block():
            self._end(Outcome.COMPLETED)
            return
        # RFC 7440 section 4: an ACK inside the window says that what follows it was lost.
        self._next = self._acked + 1
        self._proceed(now)

    def _receive_error(self, error: Error) -> None:
        if self._offer is not None:
            self._end(Outcome.PROBED, f"the client ended it after the options: {_told(error)}")
        else:
            self._end(Outcome.ABORTED, f"the client ended it at block {self._acked}: {_told(error)}")

    def _proceed(self, now: float) -> None:
        """Send what the window and the content at hand allow, and see to it that more content comes."""
        block_size = self.negotiated.block_size
        last, end = self._last_block(), self._buffer_start + len(self._buffer)
        before = self._next
        while self._next <= self._acked + self.negotiated.window:
            offset = (self._next - 1) * block_size
            if self._next > last if last is not None else offset + block_size > end:
                break
            start = offset - self._buffer_start
            content = self._buffer[start : start + block_size]
            self._out.append((data_packet(self._next & 0xFFFF, content), self._peer))
            self._next += 1
        if self._next > before:
            self._timer.sent(now)
        if self._asked == self._received < self.size and end - (self._next - 1) * block_size < READ_AHEAD:
            wanted = min(READ_AHEAD + block_size, self.size - self._asked)
            self._events.append(ContentWanted(self._asked, wanted))
            self._asked += wanted

    def _last_block(self) -> int | None:
        """The number of the last block, which is shorter than the others, once all content is here."""
        if self._received < self.size:
            return None
        return (self._buffer_start + len(self._buffer)) // self.negotiated.block_size + 1

    def _send_offer(self, now: float) -> None:
        assert self._offer is not None
        self._out.append((self._offer, self._peer))
        self._timer.sent(now)

    def _end(self, outcome: Outcome, reason: str = "") -> None:
        self._ended = True
        self._events.append(Ended(outcome, reason))
        self._buffer = memoryview(b"")

    def _silence(self) -> str:
        if self._offer is not None or not self._acked:
            return "the client never answered"
        return f"the client fell silent after block {self._acked}"


def _told(error: Error) -> str:
    return f"error {error.code} {error.message!r}"
