"""How fast a sender sends: a token bucket, whose rate follows what is delivered, not what is lost.

Random loss is no reason to slow down; a port or a node that takes less than is sent is one. The two differ in what
happens when the rate falls: then delivery improves, or it does not.
"""

_LOW, _HIGH = 0.88, 0.93
_GROWTH, _SLOW_START = 1.15, 1.5
_STEEPEST = 0.25
_MAX_DEBT = 0.003
"""Seconds of sending that may be caught up on at once: more would be a burst that switches drop."""


class Rate:
    """Bytes per second, at most `cap`. Times in seconds of any monotonic clock."""

    def __init__(self, cap: float, now: float) -> None:
        self.cap = cap
        self.rate = cap / 10
        self.changed_at = 0
        """Symbols that had been sent when the rate last changed: samples that began earlier say nothing about it."""
        self._ramping = True
        self._usual = 1.0
        self._before: float | None = None
        self._next = now

    def set_cap(self, cap: float) -> None:
        """Never send faster than this from now on."""
        self.cap = cap
        self.rate = min(self.rate, cap)

    def wait(self, now: float) -> float:
        """Seconds until the next bytes may go."""
        return max(0.0, self._next - now)

    def spend(self, size: int, now: float) -> None:
        """`size` bytes go out now."""
        self._next = max(self._next, now - _MAX_DEBT) + size / self.rate

    def observe(self, delivered: float, sent: int) -> None:
        """The worst receiver that counts got this share (0 to 1) of what was sent since the last change."""
        if self._before is not None and delivered < (1 + self._before) / 2:
            self._usual = min(self._usual, delivered)  # sending less did not help: it is loss, not a bottleneck
        self._usual = max(self._usual, delivered)
        self._before = None
        if delivered < _LOW * self._usual:
            self._before = delivered
            self._ramping = False
            self._change(max(self.rate * max(delivered / self._usual, _STEEPEST), self.cap / 20), sent)
        elif delivered > _HIGH * self._usual and self.rate < self.cap:
            self._change(min(self.rate * (_SLOW_START if self._ramping else _GROWTH), self.cap), sent)

    def _change(self, rate: float, sent: int) -> None:
        self.rate = rate
        self.changed_at = sent
