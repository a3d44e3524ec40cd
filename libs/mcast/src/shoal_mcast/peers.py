"""What a sender knows of its receivers: who is there, who is through, what share of its symbols reaches them."""

from collections.abc import Iterator
from dataclasses import dataclass

from shoal_mcast.wire import Progress

_LEAST_SAMPLE = 200
_LEAST_WINDOW = 256
_QUANTILE = 0.1
_U32 = 1 << 32
_EVERYTHING = 1 << 62
ALIVE = 1.0
"""Seconds: who was silent for longer is not waited for, neither with polls nor with the window."""


@dataclass
class Peer:
    """One receiver. `mark` and `received` are from its last progress message, in symbols."""

    id: int
    address: str
    heard: float
    ready: bool = False
    complete: bool = False
    lost: bool = False
    dropped: bool = False
    """Lost for good: it does not come back by speaking."""
    joined: int = 0
    """Symbols that had been sent when it joined."""
    goal: int = 0
    goal_at: float = 0.0
    """What had been sent at that time, as the mark was last caught up: the mark must get there soon."""
    mark: int = 0
    received: int = 0
    window: int = 0
    delivered: float | None = None
    """Share of the symbols between two progress messages that arrived; None once used."""

    @property
    def active(self) -> bool:
        """Whether it still wants something."""
        return not (self.complete or self.lost)


class Peers:
    """The receivers of one session, by the id that mcastd gave them."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._peers: dict[int, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def add(self, receiver: int, address: str, now: float, sent: int = 0) -> None:
        """A receiver joined when so many symbols were sent."""
        self._peers[receiver] = Peer(receiver, address, now, joined=sent)

    def remove(self, receiver: int) -> None:
        """A receiver left."""
        self._peers.pop(receiver, None)

    def complete(self, receiver: int) -> None:
        """A receiver has the image."""
        if receiver in self._peers:
            self._peers[receiver].complete = True

    def heard(self, receiver: int, address: str, now: float) -> Peer | None:
        """The receiver that a datagram is from: None unless it comes from its own address. The lost come back, if they
        were not dropped.
        """
        peer = self._peers.get(receiver)
        if peer is None or peer.address != address:
            return None
        peer.heard, peer.ready, peer.lost = now, True, peer.dropped
        return peer

    def progress(self, peer: Peer, message: Progress, sent: int, changed_at: int) -> None:
        """Take a progress message; `sent` is what was sent so far, `changed_at` when the rate last changed."""
        mark = peer.mark + (message.mark - peer.mark) % _U32
        if mark > sent:
            return  # nobody heard what was not sent, or an old message overtaken by a newer one
        if peer.window == 0 or mark >= peer.goal:
            peer.goal, peer.goal_at = sent, peer.heard
        got = (message.received - peer.received) % _U32
        span = mark - peer.mark
        if peer.window == 0 or got > span + _LEAST_SAMPLE:
            peer.mark, peer.received, peer.window = mark, message.received, max(1, message.window)
            return
        if span >= _LEAST_SAMPLE:
            if peer.mark >= changed_at:
                peer.delivered = min(1.0, got / span)
            peer.mark, peer.received = mark, message.received

    def delivery(self) -> float | None:
        """The share that the slowest receivers got, one in ten of them left aside; None if nothing new is known."""
        samples = sorted(peer.delivered for peer in self if peer.active and peer.delivered is not None)
        for peer in self:
            peer.delivered = None
        return samples[int(_QUANTILE * len(samples))] if samples else None

    def window_end(self, allowance: int, now: float) -> int:
        """How many symbols may have been sent in all before the fullest socket of a living receiver overflows.

        `allowance` is what goes out between two progress messages beyond the usual interval. 0 while nobody listens.
        Who did not take in within a second what was sent before it, or says so, is not waited for.
        """
        listening = [peer for peer in self.alive(now) if peer.window]
        keeping_up = [peer for peer in listening if now - peer.goal_at < ALIVE]
        if listening and not keeping_up:
            return _EVERYTHING
        return min((peer.mark + max(peer.window, _LEAST_WINDOW) + allowance for peer in keeping_up), default=0)

    def alive(self, now: float) -> list[Peer]:
        """Receivers that want something and were heard of lately."""
        return [peer for peer in self if peer.active and peer.ready and now - peer.heard < ALIVE]

    def drop_silent(self, now: float) -> None:
        """Give up on receivers that were silent too long."""
        for peer in self:
            if peer.active and now - peer.heard > self._silence:
                peer.lost = True

    def drop_hopeless(self, joined_before: int, now: float) -> None:
        """Give up for good on receivers that joined before so many symbols were sent and want more still, and on those
        whose marks have stood still for as long as silence may last. They go on over HTTP, as their own deadlines say.
        """
        for peer in self:
            behind = peer.window > 0 and now - peer.goal_at > self._silence
            if peer.active and (peer.joined < joined_before or behind):
                peer.lost = peer.dropped = True

    @property
    def active(self) -> int:
        """How many still want something."""
        return sum(peer.active for peer in self)
