"""The receiving end as a machine: datagrams in, bytes into the image, reports out. Time is an argument.

Law of it: a symbol is written where it belongs at once; a block with enough repair symbols is decoded, a full block
hashed, only when the network leaves time (`work`), in small slices, so that the socket never overflows. A block that
does not match the manifest is missing again. All state besides the image's verified blocks can be lost without harm.
"""

import hashlib
import random
import struct
from collections import deque
from typing import TYPE_CHECKING

from shoal_mcast import code, wire
from shoal_mcast.image_file import ImageFile
from shoal_mcast.wire import Beacon, Done, End, Poll, Progress, State, WireError

if TYPE_CHECKING:
    from hashlib import _Hash

_RAMP = bytes(range(256)) * 2
_ONES = b"\1" * 256
_HASH_SLICE = 1 << 18
_SPARE_REPAIRS = 64
"""Repair symbols kept of a block beyond what it misses: more than any decoding needs, less than an enemy would like."""
_MOST_FAILURES = 3


class Receiver:
    """One node in one session. Feed it with `receive`, give it idle time with `work`, send what `reports` gives."""

    def __init__(self, image: ImageFile, session: int, receiver: int, window: int) -> None:
        """`window`: what the socket buffers, in symbols. Blocks already verified in `image` are not asked for."""
        geometry = image.geometry
        self.image = image
        self.session = session
        self.id = receiver
        self.state: State | None = None
        """What the sender's last beacon said; None before the first."""
        self.ended = False
        self.failed: str | None = None
        """Why this session can never complete the image; None while it can."""
        self.heard_at: float | None = None
        self.gained_at: float | None = None
        self.rejected = 0
        self.held = 0
        """Symbols in the image so far, verified or not."""
        self._geometry = geometry
        self._segment = wire.HEADER_SIZE + geometry.symbol_size
        self._window = window
        self._received = 0
        self._have = bytearray(geometry.symbols)
        self._missing = [geometry.symbols_in(block) for block in range(geometry.blocks)]
        self._dependent: dict[int, int] = {}
        self._repairs: dict[int, dict[int, bytes]] = {}
        self._open = dict.fromkeys(range(geometry.blocks))
        self._decodable: deque[int] = deque()
        self._full: deque[int] = deque()
        self._hashing: tuple[int, int, _Hash] | None = None
        self._failures: dict[int, int] = {}
        self._outbox: list[bytes] = []
        self._poll: Poll | None = None
        self._answer_at = 0.0
        self._progress_at = 0.0
        for block in range(geometry.blocks):
            if image.verified[block]:
                self._fill(block)

    # --- datagrams in ---------------------------------------------------------------------------------------

    def receive(self, data: bytearray, length: int, segment: int, now: float) -> None:
        """Take the first `length` bytes of `data`: datagrams of `segment` bytes each (as UDP_GRO gives them), the
        last perhaps shorter.
        """
        if segment < self._segment or not self._run(data, length, segment, now):
            view = memoryview(data)
            for start in range(0, length, segment):
                self._datagram(view[start : min(start + segment, length)], now)

    def _run(self, data: bytearray, length: int, segment: int, now: float) -> bool:
        """Take consecutive new source symbols of one block in one go: nearly all of a session passes here.

        Reading each header would cost more than everything else, so three strided slices look at all of them: the
        type, the block's low byte, the index's low byte; the ends are read whole.
        """
        count, rest = divmod(length, segment)
        if rest or segment != self._segment or not 1 < count <= 256:
            return False
        session, block, kind, _, first = wire.HEADER.unpack_from(data)
        if session != self.session or kind != wire.SOURCE or block >= self._geometry.blocks:
            return False
        session, other, _, _, last = wire.HEADER.unpack_from(data, length - segment)
        if session != self.session or other != block or last - first != count - 1:
            return False
        if last >= self._geometry.symbols_in(block) or data[6:length:segment].count(wire.SOURCE) != count:
            return False
        low = first & 0xFF
        if data[5:length:segment].count(block & 0xFF) != count or data[11:length:segment] != _RAMP[low : low + count]:
            return False
        start = block * self._geometry.block_symbols + first
        size = self._geometry.symbol_size
        position = start * size
        if self._have.find(1, start, start + count) >= 0 or position + count * size > self._geometry.size:
            return False
        self._copy(data, length, position)
        self._have[start : start + count] = _ONES[:count]
        self._gained(block, count, now)
        self._received += count
        return True

    def _copy(self, data: bytearray, length: int, position: int) -> None:
        buffer, view, size, segment = self.image.buffer, memoryview(data), self._geometry.symbol_size, self._segment
        for start in range(wire.HEADER_SIZE, length, segment):
            buffer[position : position + size] = view[start : start + size]
            position += size

    def _datagram(self, data: memoryview, now: float) -> None:
        try:
            session, block, kind, _, index = wire.HEADER.unpack_from(data)
        except struct.error:
            self.rejected += 1
            return
        if session != self.session:
            self.rejected += 1
        elif kind in (wire.SOURCE, wire.REPAIR):
            if len(data) != self._segment or block >= self._geometry.blocks:
                self.rejected += 1
            elif kind == wire.SOURCE:
                self._source(block, index, data[wire.HEADER_SIZE :], now)
            else:
                self._repair(block, index, data[wire.HEADER_SIZE :], now)
        else:
            self._told(data, now)

    def _source(self, block: int, index: int, symbol: memoryview, now: float) -> None:
        if index >= self._geometry.symbols_in(block):
            self.rejected += 1
            return
        self._received += 1
        self.heard_at = now
        position = block * self._geometry.block_symbols + index
        if not self._have[position]:
            self._write(position, symbol)
            self._gained(block, 1, now)

    def _write(self, position: int, symbol: bytes | memoryview) -> None:
        start = position * self._geometry.symbol_size
        end = min(start + self._geometry.symbol_size, self._geometry.size)
        self.image.buffer[start:end] = symbol[: end - start]
        self._have[position] = 1

    def _repair(self, block: int, seed: int, symbol: memoryview, now: float) -> None:
        self._received += 1
        self.heard_at = now
        if not self._missing[block]:
            return
        repairs = self._repairs.setdefault(block, {})
        if seed not in repairs and len(repairs) < self._needed(block) + _SPARE_REPAIRS:
            repairs[seed] = bytes(symbol)
            self.gained_at = now
            self._queue_if_decodable(block)

    def _gained(self, block: int, count: int, now: float) -> None:
        self.heard_at = self.gained_at = now
        self.held += count
        self._missing[block] -= count
        if not self._missing[block]:
            self._close(block)
        elif block in self._repairs:
            self._queue_if_decodable(block)

    def _needed(self, block: int) -> int:
        """Repair symbols that make a block: one for each missing symbol, and those that proved to say nothing new."""
        return self._missing[block] + self._dependent.get(block, 0)

    def _queue_if_decodable(self, block: int) -> None:
        if len(self._repairs[block]) >= self._needed(block) and block not in self._decodable:
            self._decodable.append(block)

    # --- what the sender tells ------------------------------------------------------------------------------

    def _told(self, data: memoryview, now: float) -> None:
        try:
            message = wire.decode_from_sender(data)
        except WireError:
            self.rejected += 1
            return
        if isinstance(message, Beacon) and message.geometry != self._geometry:
            self.failed = f"the sender's geometry {message.geometry} is not the manifest's {self._geometry}"
            return
        self.heard_at = now
        match message:
            case Beacon():
                self.state, self.ended = message.state, False
                if now >= self._progress_at:
                    self._progress_at = now + message.interval / 1000
                    progress = Progress(self.session, self.id, message.sent, self._received, self._window)
                    self._outbox.append(progress.encode())
            case Poll():
                self._poll = message
                self._answer_at = now + random.random() * message.spread / 1000
            case End():
                self.ended = True

    # --- reports out ----------------------------------------------------------------------------------------

    def reports(self, now: float) -> list[bytes]:
        """Datagrams to send to the sender now."""
        if self._poll is not None and now >= self._answer_at and not self.image.complete:
            self._outbox += self._answer(self._poll)
            self._poll = None
        datagrams, self._outbox = self._outbox, []
        return datagrams

    def farewell(self) -> bytes:
        """What to send, a few times, once the image is complete."""
        return Done(self.session, self.id).encode()

    def _answer(self, poll: Poll) -> list[bytes]:
        missing = [
            (block, max(1, self._needed(block) - len(self._repairs.get(block, ()))))
            for block in self._open
            if block < poll.blocks and block not in self._decodable
        ]
        return [report.encode() for report in wire.reports(self.session, self.id, poll.number, missing)]

    # --- work for idle moments ------------------------------------------------------------------------------

    def work(self) -> bool:
        """Decode one block, or hash a slice of one: some milliseconds. False if there is nothing to do."""
        if self._decodable:
            self._decode(self._decodable.popleft())
        elif self._hashing is not None:
            self._hash(*self._hashing)
        elif self._full:
            self._hash(self._full.popleft(), 0, hashlib.sha256())
        else:
            return False
        return True

    def _decode(self, block: int) -> None:
        repairs = self._repairs.get(block, {})
        if not self._missing[block] or len(repairs) < self._needed(block):
            return  # meanwhile its source symbols came, or it was refused
        first, count = block * self._geometry.block_symbols, self._geometry.symbols_in(block)
        have = self._have[first : first + count]
        lost = [position for position in range(count) if not have[position]]
        symbols = code.as_integers(self.image.block(block), self._geometry.symbol_size)
        known = [symbol if have[position] else 0 for position, symbol in enumerate(symbols)]
        rank, solved = code.solve(block, known, lost, repairs)
        if rank < len(lost):
            self._dependent[block] = len(repairs) - rank
            return
        for position, value in solved.items():
            self._write(first + position, value.to_bytes(self._geometry.symbol_size, "little"))
        self.held += len(lost)
        self._missing[block] = 0
        self._close(block)

    def _hash(self, block: int, done: int, hasher: "_Hash") -> None:
        content = self.image.block(block)
        hasher.update(content[done : done + _HASH_SLICE])
        done += _HASH_SLICE
        if done < len(content):
            self._hashing = block, done, hasher
            return
        self._hashing = None
        if not self.image.accept(block, hasher.hexdigest()):
            self._refuse(block, hasher.hexdigest())

    def _close(self, block: int) -> None:
        """Every symbol of a block is there: it needs nothing but its hash."""
        self._repairs.pop(block, None)
        self._dependent.pop(block, None)
        del self._open[block]
        self._full.append(block)

    def _fill(self, block: int) -> None:
        """A block that was verified before this session."""
        first, count = block * self._geometry.block_symbols, self._geometry.symbols_in(block)
        self._have[first : first + count] = b"\1" * count
        self._missing[block] = 0
        self.held += count
        del self._open[block]

    def _refuse(self, block: int, got: str) -> None:
        """A block is not what the manifest says: ask for all of it again, a few times."""
        first, count = block * self._geometry.block_symbols, self._geometry.symbols_in(block)
        self._have[first : first + count] = bytes(count)
        self._missing[block] = count
        self._open[block] = None
        self.held -= count
        self._failures[block] = self._failures.get(block, 0) + 1
        if self._failures[block] >= _MOST_FAILURES:
            self.failed = (
                f"block {block} came {_MOST_FAILURES} times with SHA-256 {got[:12]}… where the manifest says "
                f"{self.image.hashes[block][:12]}…: the sender's copy of the image is damaged"
            )
