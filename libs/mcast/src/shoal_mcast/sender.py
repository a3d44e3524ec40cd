"""The sending end as a machine: time is an argument, datagrams are values, no socket is known.

Law of it: one pass over the image in order; a poll every few blocks; what the answers say is missing goes out as
repair symbols between the blocks that follow. Blocks that somebody lacks nearly whole (who joined late) are sent anew
after the pass. It ends when nobody wants anything any more. Nobody is ever waited for by count.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shoal_mcast import code, wire
from shoal_mcast.geometry import Geometry
from shoal_mcast.peers import Peers
from shoal_mcast.rate import Rate
from shoal_mcast.rounds import Need, Rounds
from shoal_mcast.wire import Beacon, Done, End, Poll, Progress, Report, State, WireError

_BURST_SYMBOLS = 44
_BURST_BYTES = 64_500
"""A burst is one GSO send: below 64 KiB with its headers, and within the 64 segments of older kernels."""
_POLL_BLOCKS = 12
_BEACON_GATHERING, _BEACON_SENDING = 0.05, 0.025
_ADJUST = 0.05
_IDLE_POLL = 0.1
_WINDOW_AGE = 0.002
_FAREWELLS, _FAREWELL_GAP = 5, 0.05
_PATIENCE, _LEAST_PATIENCE = 3, 4096
"""A receiver may have been sent so many times the image, or so many symbols of a small one, and no more."""
_SPREAD_US = 25
_INTERVAL_US = 250
_LEAST_INTERVAL = 0.05


@dataclass(frozen=True, slots=True)
class Burst:
    """Datagrams of equal length: `parts` in order, `segments` of them, `size` bytes in all (headers included)."""

    parts: tuple[bytes | memoryview, ...]
    segments: int
    size: int
    repairs: int = 0


@dataclass(frozen=True)
class Options:
    """Bytes per second at most; seconds after which a silent receiver is given up."""

    rate: float
    silence: float = 20.0


@dataclass(frozen=True)
class SenderStatus:
    """A view of the session. `sent` counts every payload byte that was put on the wire: symbols, headers, polls."""

    started: bool
    ended: bool
    sent: int
    repairs: int
    receivers: int
    ready: int
    complete: int
    lost: int
    rate: float
    rejected: int


class Sender:
    """One session. Use: `add`, `start`, then `next(now)` whenever `wait(now)` is over, and `receive` for reports."""

    def __init__(
        self, session: int, digest: bytes, geometry: Geometry, read: Callable[[int], memoryview], options: Options
    ) -> None:
        """`read(block)` gives the block's bytes; they are sent without a copy."""
        self.session = session
        self.geometry = geometry
        self.segment = wire.HEADER_SIZE + geometry.symbol_size
        self._digest = digest
        self._read = read
        self._peers = Peers(options.silence)
        self._rounds = Rounds([geometry.symbols_in(block) for block in range(geometry.blocks)])
        self._rate = Rate(options.rate, 0.0)
        self._per_burst = max(1, min(_BURST_SYMBOLS, _BURST_BYTES // self.segment))
        self._control: deque[bytes] = deque()
        self._job: Iterator[Burst] = iter(())
        self._next_block = 0
        self._counters = [0] * geometry.blocks
        self._repair_turn = False
        self._started = False
        self._farewells = _FAREWELLS
        self._beacon_at = self._adjust_at = self._poll_at = self._window_at = 0.0
        self._window_end = 0
        self._symbols = self._sent = self._repairs = self._rejected = 0

    # --- what happens to it ---------------------------------------------------------------------------------

    def add(self, receiver: int, address: str, now: float) -> None:
        """A receiver joined: its reports will come from this address under this id."""
        self._peers.add(receiver, address, now, self._symbols)
        self._farewells = _FAREWELLS

    def remove(self, receiver: int) -> None:
        """A receiver left, or wants nothing any more."""
        self._peers.remove(receiver)

    def complete(self, receiver: int) -> None:
        """A receiver has the image, as was learnt by another way than its own report."""
        self._peers.complete(receiver)

    def start(self) -> None:
        """Begin the pass; until then there are beacons alone."""
        self._started = True

    def end(self) -> None:
        """Stop, whoever still wants something."""
        for peer in list(self._peers):
            self._peers.remove(peer.id)

    def limit(self, rate: float) -> None:
        """Bytes per second at most, from now on."""
        self._rate.set_cap(rate)

    def receive(self, data: bytes | memoryview, address: str, now: float) -> None:
        """A datagram from the network. What is not from a receiver of this session is counted and dropped."""
        try:
            message = wire.decode_from_receiver(data)
        except WireError:
            self._rejected += 1
            return
        peer = self._peers.heard(message.receiver, address, now) if message.session == self.session else None
        if peer is None:
            self._rejected += 1
            return
        match message:
            case Progress():
                self._peers.progress(peer, message, self._symbols, self._rate.changed_at)
            case Report() if peer.active:
                self._rounds.answer(peer.id, message.poll, message.missing, now)
            case Done():
                peer.complete = True

    # --- what it wants to send ------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the session is over and its last farewell sent."""
        return self._farewells == 0

    @property
    def status(self) -> SenderStatus:
        """How it stands."""
        peers = list(self._peers)
        return SenderStatus(
            started=self._started,
            ended=self.ended,
            sent=self._sent,
            repairs=self._repairs,
            receivers=len(peers),
            ready=sum(peer.ready for peer in peers),
            complete=sum(peer.complete for peer in peers),
            lost=sum(peer.lost for peer in peers),
            rate=self._rate.rate,
            rejected=self._rejected,
        )

    def next(self, now: float) -> Burst | None:
        """What to send now, if anything."""
        if not self._control:
            self._tend(now)
        if self._control:
            datagram = self._control.popleft()
            return self._account(Burst((datagram,), 1, len(datagram)), now)
        if not self._started or not self._peers.active or self._blocked(now):
            return None
        burst = next(self._job, None)
        if burst is None:
            self._job = self._choose(now)
            burst = next(self._job, None)
        if burst is None:
            return self.next(now) if self._control else None
        self._symbols += burst.segments
        return self._account(burst, now)

    def wait(self, now: float) -> float:
        """After `next` had nothing: seconds until it may have something. After a datagram, ask again."""
        if self._control:
            return 0.0
        until = self._beacon_at - now
        timeout = self._rounds.next_timeout()
        if timeout is not None:
            until = min(until, timeout - now)
        pace = self._rate.wait(now)
        if self._started and pace > 0:
            until = min(until, pace)
        return max(0.0, until)

    # --- housekeeping ---------------------------------------------------------------------------------------

    def _tend(self, now: float) -> None:
        """Beacons, polls to repeat, the rate, the end."""
        if now >= self._beacon_at:
            self._peers.drop_silent(now)
            self._peers.drop_hopeless(self._symbols - max(_PATIENCE * self.geometry.symbols, _LEAST_PATIENCE), now)
            if len(self._peers) and self._peers.active:
                self._beacon(now)
            elif self._farewells:
                self._farewells -= 1
                self._beacon_at = now + _FAREWELL_GAP
                self._control.append(End(self.session).encode())
        if self._rounds.waiting:
            for number, blocks in self._rounds.settle([peer.id for peer in self._peers.alive(now)], now):
                self._control.append(self._poll(number, blocks))
        if now >= self._adjust_at:
            self._adjust_at = now + _ADJUST
            delivered = self._peers.delivery()
            if delivered is not None:
                self._rate.observe(delivered, self._symbols)

    def _beacon(self, now: float) -> None:
        self._beacon_at = now + (_BEACON_SENDING if self._started else _BEACON_GATHERING)
        state = State.SENDING if self._started else State.GATHERING
        interval = min(int(self._interval * 1000), 0xFFFF)
        self._control.append(Beacon(self.session, self._symbols, state, self.geometry, interval, self._digest).encode())

    @property
    def _interval(self) -> float:
        """Seconds between progress messages of a receiver: all of them together at most 4,000 a second."""
        return max(_LEAST_INTERVAL / 2, len(self._peers) * _INTERVAL_US / 1e6)

    def _poll(self, number: int, blocks: int) -> bytes:
        spread = min(len(self._peers) * _SPREAD_US // 1000, 0xFFFF)
        return Poll(self.session, number, blocks, spread).encode()

    def _blocked(self, now: float) -> bool:
        if self._rate.wait(now) > 0:
            return True
        if now >= self._window_at:
            self._window_at = now + _WINDOW_AGE
            late = max(0.0, self._interval - _LEAST_INTERVAL)
            self._window_end = self._peers.window_end(int(self._rate.rate / self.segment * late), now)
        return self._symbols >= self._window_end

    def _account(self, burst: Burst, now: float) -> Burst:
        self._rate.spend(burst.size, now)
        self._sent += burst.size
        self._repairs += burst.repairs
        return burst

    # --- symbols --------------------------------------------------------------------------------------------

    def _choose(self, now: float) -> Iterator[Burst]:
        """The next piece of work: blocks of the pass and repairs in turn, then repairs alone, then polls."""
        in_pass = self._next_block < self.geometry.blocks
        self._repair_turn = not self._repair_turn
        if self._repair_turn or not in_pass:
            need = self._rounds.take(heavy=not in_pass)
            if need is not None:
                return self._source(need.block) if need.heavy else self._repair(need)
        if in_pass:
            return self._pass(now)
        if not self._rounds.waiting and now >= self._poll_at:
            self._ask(self.geometry.blocks, now)
            self._poll_at = now + _IDLE_POLL
        return iter(())

    def _pass(self, now: float) -> Iterator[Burst]:
        yield from self._source(self._next_block)
        self._next_block += 1
        if self._next_block % _POLL_BLOCKS == 0 or self._next_block == self.geometry.blocks:
            self._ask(self._next_block, now)

    def _ask(self, blocks: int, now: float) -> None:
        self._control.append(self._poll(self._rounds.open(blocks, now), blocks))

    def _source(self, block: int) -> Iterator[Burst]:
        size, count = self.geometry.symbol_size, self.geometry.symbols_in(block)
        content = self._read(block)
        pack = wire.HEADER.pack
        for first in range(0, count, self._per_burst):
            parts: list[bytes | memoryview] = []
            last = min(first + self._per_burst, count)
            for index in range(first, last):
                parts += (pack(self.session, block, wire.SOURCE, 0, index), content[index * size : index * size + size])
            if len(parts[-1]) < size:
                parts[-1] = bytes(parts[-1]).ljust(size, b"\0")
            yield Burst(tuple(parts), last - first, (last - first) * self.segment)

    def _repair(self, need: Need) -> Iterator[Burst]:
        size, density = self.geometry.symbol_size, code.density_for(need.missing)
        symbols = code.as_integers(self._read(need.block), size)
        left = need.repairs
        while left:
            count = min(left, self._per_burst)
            parts: list[bytes | memoryview] = []
            for _ in range(count):
                seed = code.seed_of(self._counters[need.block], density)
                self._counters[need.block] += 1
                parts.append(wire.HEADER.pack(self.session, need.block, wire.REPAIR, 0, seed))
                parts.append(code.encode(need.block, seed, symbols).to_bytes(size, "little"))
            left -= count
            yield Burst(tuple(parts), count, count * self.segment, repairs=count)
