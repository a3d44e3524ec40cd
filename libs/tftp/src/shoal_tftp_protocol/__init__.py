"""TFTP without I/O: bytes and times go in, bytes, times and events come out. Standard library alone.

Theory of operation. A *sender* answers one read request, a *receiver* makes one; each owns one transfer and nothing
else. Whoever drives them (a socket loop, or a test that is a list of datagrams) does five things:

    machine.receive_datagram(data, address, now)    what came in
    machine.handle_timer(now)                       when `get_timer()` has passed
    machine.datagrams_to_send(now)                  what must go out now: (data, address) pairs
    machine.get_timer()                             when to come back, or None
    machine.next_event()                            what happened: content wanted or there, the end

`now` is any clock in seconds that does not go back. No machine reads a clock, opens a file or waits.

Sources: RFC 1350 (protocol), RFC 2347 (options), RFC 2348 (blksize), RFC 2349 (timeout, tsize), RFC 7440 (windowsize),
RFC 1123 section 4.2.3 (retransmission with back-off; the Sorcerer's Apprentice).
"""

from shoal_tftp_protocol.events import Accepted, Content, ContentWanted, Ended, Event, Outcome
from shoal_tftp_protocol.options import Limits, Negotiated, negotiate
from shoal_tftp_protocol.packets import (
    Ack,
    Address,
    Data,
    Error,
    ErrorCode,
    Malformed,
    OptionAck,
    Packet,
    ReadRequest,
    WriteRequest,
    encode,
    parse,
)
from shoal_tftp_protocol.receiver import Receiver
from shoal_tftp_protocol.sender import Sender

__all__ = [
    "Accepted",
    "Ack",
    "Address",
    "Content",
    "ContentWanted",
    "Data",
    "Ended",
    "Error",
    "ErrorCode",
    "Event",
    "Limits",
    "Malformed",
    "Negotiated",
    "OptionAck",
    "Outcome",
    "Packet",
    "ReadRequest",
    "Receiver",
    "Sender",
    "WriteRequest",
    "encode",
    "negotiate",
    "parse",
]
