"""What a sender knows of its receivers: who is there, who is through, what share of its symbols reaches them."""

from collections.abc import Iterator
from dataclasses import dataclass

from shoal_mcast.wire import Progress

_LEAST_SAMPLE = 200
_LEAST_WINDOW = 256
_QUANTILE = 0.1
_U32 = 1 << 32
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

    def add(self, receiver: int, address: str, now: float) -> None:
        """A receiver joined."""
        self._peers[receiver] = Peer(receiver, address, now)

    def remove(self, receiver: int) -> None:
        """A receiver left."""
        self._peers.pop(receiver, None)

    def complete(self, receiver: int) -> None:
        """A receiver has the image."""
        if receiver in self._peers:
            self._peers[receiver].complete = True

    def heard(self, receiver: int, address: str, now: float) -> Peer | None:
        """The receiver that a datagram is from: None unless it comes from its own address. The lost come back."""
        peer = self._peers.get(receiver)
        if peer is None or peer.address != address:
            return None
        peer.heard, peer.ready, peer.lost = now, True, False
        return peer

    def progress(self, peer: Peer, message: Progress, sent: int, changed_at: int) -> None:
        """Take a progress message; `sent` is what was sent so far, `changed_at` when the rate last changed."""
        mark = peer.mark + (message.mark - peer.mark) % _U32
        if mark > sent:
            return  # nobody heard what was not sent, or an old message overtaken by a newer one
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
        """
        return min(
            (peer.mark + max(peer.window, _LEAST_WINDOW) + allowance for peer in self.alive(now) if peer.window),
            default=0,
        )

    def alive(self, now: float) -> list[Peer]:
        """Receivers that want something and were heard of lately."""
        return [peer for peer in self if peer.active and peer.ready and now - peer.heard < ALIVE]

    def drop_silent(self, now: float) -> None:
        """Give up on receivers that were silent too long."""
        for peer in self:
            if peer.active and now - peer.heard > self._silence:
                peer.lost = True

    @property
    def active(self) -> int:
        """How many still want something."""
        return sum(peer.active for peer in self)
