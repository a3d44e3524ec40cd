"""The datagrams of mcast/1, byte for byte. All numbers are big-endian.

Every datagram opens with 12 bytes: session u32 | block u16 | type u8 | flags u8 (0 for now) | index u32.

| type     | from     | block               | index             | behind the header                                   |
|----------|----------|---------------------|-------------------|-----------------------------------------------------|
| SOURCE   | sender   | its block           | symbol in block   | one symbol, the image's last padded with zeros      |
| REPAIR   | sender   | its block           | seed (see `code`) | XOR of the symbols that the seed's mask selects     |
| POLL     | sender   | blocks sent so far  | number of poll    | spread u16 ms, reserved u16                         |
| BEACON   | sender   | blocks of the image | symbols sent      | version, state, geometry, progress interval, digest |
| END      | sender   | 0                   | 0                 | nothing: the session is over                        |
| REPORT   | receiver | 0                   | receiver id       | poll u32, reserved u16, n u16, n × (block, missing) |
| PROGRESS | receiver | 0                   | receiver id       | mark u32, received u32, window u32                  |
| DONE     | receiver | 0                   | receiver id       | nothing: every block is verified                    |

`mark` repeats the index of the last beacon heard, `received` counts the symbols that had arrived by then: so the
sender knows what share of its symbols gets through, whatever is lost or delayed. `window` is what the receiver's
socket holds, in symbols.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from shoal_mcast.geometry import Geometry

VERSION = 1
HEADER = struct.Struct("!IHBBI")
HEADER_SIZE = HEADER.size

SOURCE, REPAIR, POLL, BEACON, END = 0, 1, 2, 3, 4
REPORT, PROGRESS, DONE = 16, 17, 18

MAX_PAIRS = 340
"""Blocks that one report names: so many fit into 1,400 bytes. Who misses more of them sends several reports."""

_BEACON = struct.Struct("!BBHHHQ32s")
_POLL = struct.Struct("!HH")
_REPORT = struct.Struct("!IHH")
_PROGRESS = struct.Struct("!III")
_U32 = 0xFFFF_FFFF


class WireError(ValueError):
    """Bytes that are no datagram of this protocol."""


class State(IntEnum):
    """What a sender is at: its beacons say so."""

    GATHERING = 0
    SENDING = 1


@dataclass(frozen=True)
class Beacon:
    """The sender is there, and this is what it sends; `interval` is the least time between progress messages, in ms."""

    session: int
    sent: int
    state: State
    geometry: Geometry
    interval: int
    digest: bytes

    def encode(self) -> bytes:
        """The datagram."""
        g = self.geometry
        head = HEADER.pack(self.session, g.blocks, BEACON, 0, self.sent & _U32)
        return head + _BEACON.pack(
            VERSION, self.state, g.symbol_size, g.block_symbols, self.interval, g.size, self.digest
        )


@dataclass(frozen=True)
class Poll:
    """The sender asks what is missing of the first `blocks` blocks; answer within `spread` ms, at random."""

    session: int
    number: int
    blocks: int
    spread: int = 0

    def encode(self) -> bytes:
        """The datagram."""
        return HEADER.pack(self.session, self.blocks, POLL, 0, self.number) + _POLL.pack(self.spread, 0)


@dataclass(frozen=True)
class Report:
    """How many symbols each incomplete block still needs, in answer to a poll: (block, missing)."""

    session: int
    receiver: int
    poll: int
    missing: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        """The datagram."""
        flat = [value for pair in self.missing for value in pair]
        head = HEADER.pack(self.session, 0, REPORT, 0, self.receiver)
        return head + _REPORT.pack(self.poll, 0, len(self.missing)) + struct.pack(f"!{len(flat)}H", *flat)


@dataclass(frozen=True)
class Progress:
    """See the module: `mark`, `received` and `window` in symbols."""

    session: int
    receiver: int
    mark: int
    received: int
    window: int

    def encode(self) -> bytes:
        """The datagram."""
        head = HEADER.pack(self.session, 0, PROGRESS, 0, self.receiver)
        return head + _PROGRESS.pack(self.mark & _U32, self.received & _U32, min(self.window, _U32))


@dataclass(frozen=True)
class Done:
    """The receiver has every block, verified."""

    session: int
    receiver: int

    def encode(self) -> bytes:
        """The datagram."""
        return HEADER.pack(self.session, 0, DONE, 0, self.receiver)


@dataclass(frozen=True)
class End:
    """The session is over."""

    session: int

    def encode(self) -> bytes:
        """The datagram."""
        return HEADER.pack(self.session, 0, END, 0, 0)


FromSender = Beacon | Poll | End
FromReceiver = Report | Progress | Done


def reports(session: int, receiver: int, poll: int, missing: Sequence[tuple[int, int]]) -> Iterable[Report]:
    """The reports that tell all of `missing`: one at least, each small enough for a datagram."""
    for start in range(0, max(1, len(missing)), MAX_PAIRS):
        yield Report(session, receiver, poll, tuple(missing[start : start + MAX_PAIRS]))


def decode_from_sender(data: bytes | memoryview) -> FromSender:
    """A beacon, poll or end. Symbols are not for here (`receiver` reads them in place). Raises WireError."""
    session, block, kind, _, index = _header(data)
    body = data[HEADER_SIZE:]
    try:
        if kind == POLL:
            spread, _ = _POLL.unpack(body)
            return Poll(session, index, block, spread)
        if kind == END and not len(body):
            return End(session)
        if kind == BEACON:
            return _beacon(session, block, index, body)
    except struct.error as error:
        raise WireError(f"a datagram of type {kind} has {len(data)} bytes: {error}") from None
    raise WireError(f"type {kind} in {len(data)} bytes is nothing a sender tells")


def decode_from_receiver(data: bytes | memoryview) -> FromReceiver:
    """A report, progress or done. Raises WireError."""
    session, _, kind, _, receiver = _header(data)
    body = data[HEADER_SIZE:]
    try:
        if kind == PROGRESS:
            return Progress(session, receiver, *_PROGRESS.unpack(body))
        if kind == DONE and not len(body):
            return Done(session, receiver)
        if kind == REPORT:
            poll, _, count = _REPORT.unpack_from(body)
            flat = struct.unpack(f"!{2 * count}H", body[_REPORT.size :])
            return Report(session, receiver, poll, tuple(zip(flat[::2], flat[1::2], strict=True)))
    except struct.error as error:
        raise WireError(f"a datagram of type {kind} has {len(data)} bytes: {error}") from None
    raise WireError(f"type {kind} in {len(data)} bytes is nothing a receiver tells")


def _header(data: bytes | memoryview) -> tuple[int, int, int, int, int]:
    if len(data) < HEADER_SIZE:
        raise WireError(f"{len(data)} bytes are less than a header")
    session, block, kind, flags, index = HEADER.unpack_from(data)
    return session, block, kind, flags, index


def _beacon(session: int, blocks: int, sent: int, body: bytes | memoryview) -> Beacon:
    version, state, symbol_size, block_symbols, interval, size, digest = _BEACON.unpack(body)
    if version != VERSION:
        raise WireError(f"the sender speaks version {version} of the protocol, not {VERSION}")
    try:
        geometry = Geometry(size, symbol_size, block_symbols)
        beacon = Beacon(session, sent, State(state), geometry, interval, digest)
    except ValueError as error:
        raise WireError(f"a beacon with wrong content: {error}") from None
    if geometry.blocks != blocks:
        raise WireError(f"a beacon of {blocks} blocks with the geometry of {geometry.blocks}")
    return beacon
