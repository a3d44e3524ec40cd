"""The client's side of a read request: receives one file from one server."""

from collections import deque
from collections.abc import Mapping

from shoal_tftp_protocol.events import Accepted, Content, Ended, Event, Outcome
from shoal_tftp_protocol.options import Negotiated, agreed
from shoal_tftp_protocol.packets import (
    Ack,
    Address,
    Data,
    Error,
    ErrorCode,
    Malformed,
    OptionAck,
    ReadRequest,
    encode,
    parse,
)
from shoal_tftp_protocol.timing import Retransmission

_HALF = 0x8000


class Receiver:
    """One transfer from one server, in octet mode.

    The server's TID is the port its first answer comes from. After the end, the last block is still acknowledged when
    it comes again, because its ACK may have been lost (RFC 1350 section 6): keep the socket for a moment.
    """

    def __init__(
        self, filename: str, server: Address, options: Mapping[str, str], now: float, *, patience: float = 30.0
    ) -> None:
        """Ask `server` (its address and the well-known port) for a file, with these options in decimal."""
        self._options = dict(options)
        self._server = server
        self._peer: Address | None = None
        self._timer = Retransmission(now, patience=patience)
        self._last_sent = encode(ReadRequest(filename, "octet", self._options))
        self.negotiated: Negotiated | None = None
        self._received = 0
        self._unacked = 0
        self._gap_told = False
        self._ended = False
        self._out: deque[tuple[bytes, Address]] = deque()
        self._events: deque[Event] = deque()
        self._send(self._last_sent, now)

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram that reached the transfer's port. Garbage is ignored."""
        try:
            packet = parse(data)
        except Malformed:
            return
        if address != self._peer and (self._peer is not None or address[0] != self._server[0]):
            if not isinstance(packet, Error):
                self._out.append((encode(Error(ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer ID")), address))
            return
        if self._ended:
            if isinstance(packet, Data) and packet.block == self._received & 0xFFFF and address == self._peer:
                self._out.append((self._last_sent, address))
            return
        self._peer = address
        match packet:
            case Data(block, content):
                self._receive_data(block, content, now)
            case OptionAck(options):
                self._receive_options(options, now)
            case Error(code, message):
                self._end(Outcome.ABORTED, f"the server says: error {code} {message!r}")
            case _:
                self._fail(f"{type(packet).__name__} has no place in a read transfer", ErrorCode.ILLEGAL_OPERATION)

    def handle_timer(self, now: float) -> None:
        """Send the last request or ACK again, or give up."""
        if self._ended or not self._timer.expired(now):
            return
        if self._timer.hopeless(now):
            self._end(Outcome.TIMED_OUT, f"the server fell silent after block {self._received}")
        else:
            self._unacked = 0
            self._send(self._last_sent, now)

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

    def _receive_options(self, options: Mapping[str, str], now: float) -> None:
        if self.negotiated is None:
            try:
                self._accept(agreed(self._options, options), now)
            except ValueError as error:
                self._fail(str(error), ErrorCode.OPTION_REFUSED)
                return
        elif not self.negotiated.granted:
            return  # an OACK behind DATA: the server contradicts itself, the data counts
        if not self._received:
            self._acknowledge(now)

    def _receive_data(self, wire: int, content: bytes, now: float) -> None:
        if self.negotiated is None:
            self._accept(Negotiated(), now)
        assert self.negotiated is not None
        if len(content) > self.negotiated.block_size:
            self._fail(f"a block of {len(content)} bytes, where {self.negotiated.block_size} were agreed")
            return
        ahead = (wire - self._received) & 0xFFFF
        if ahead == 1:
            self._take(content, now)
        elif ahead < _HALF and ahead > 1:
            # RFC 7440 section 4: tell of a gap once, with the last block before it.
            if not self._gap_told:
                self._gap_told = True
                self._acknowledge(now)
        elif ahead == 0 and not self._unacked:
            # The end of the last window again: its ACK was lost. Any other old block is the network's copy.
            self._acknowledge(now)

    def _take(self, content: bytes, now: float) -> None:
        assert self.negotiated is not None
        self._received += 1
        self._unacked += 1
        self._gap_told = False
        self._timer.answered(now)
        self._events.append(Content(content))
        final = len(content) < self.negotiated.block_size
        if final or self._unacked == self.negotiated.window:
            self._acknowledge(now)
        else:
            self._last_sent = encode(Ack(self._received & 0xFFFF))
            self._timer.sent(now)
        if final:
            self._end(Outcome.COMPLETED)

    def _accept(self, negotiated: Negotiated, now: float) -> None:
        self.negotiated = negotiated
        if negotiated.timeout is not None:
            self._timer.fix(negotiated.timeout)
        self._timer.answered(now)
        self._events.append(Accepted(negotiated))

    def _acknowledge(self, now: float) -> None:
        self._unacked = 0
        self._last_sent = encode(Ack(self._received & 0xFFFF))
        self._send(self._last_sent, now)

    def _send(self, data: bytes, now: float) -> None:
        self._out.append((data, self._peer or self._server))
        self._timer.sent(now)

    def _fail(self, reason: str, code: ErrorCode = ErrorCode.ILLEGAL_OPERATION) -> None:
        self._out.append((encode(Error(code, reason)), self._peer or self._server))
        self._end(Outcome.FAILED, reason)

    def _end(self, outcome: Outcome, reason: str = "") -> None:
        self._ended = True
        self._events.append(Ended(outcome, reason))
