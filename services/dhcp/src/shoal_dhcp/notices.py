"""What is told about once, although it is seen many times. Time is an argument, in seconds that never go back."""

from collections import deque
from collections.abc import Hashable


class Recently:
    """Remembers what was told in the last `interval` seconds; holds `capacity` keys at most.

    While it is full, news is refused rather than older keys forgotten: the promise "at most once in `interval`" holds
    for every key, whatever an attacker makes up.
    """

    def __init__(self, interval: float, capacity: int) -> None:
        self._interval = interval
        self._capacity = capacity
        self._keys: set[Hashable] = set()
        self._order: deque[tuple[float, Hashable]] = deque()

    def is_new(self, key: Hashable, now: float) -> bool:
        """Whether `key` is to be told now; if so it is taken as told."""
        while self._order and now - self._order[0][0] >= self._interval:
            self._keys.discard(self._order.popleft()[1])
        if key in self._keys or len(self._keys) >= self._capacity:
            return False
        self._keys.add(key)
        self._order.append((now, key))
        return True


class Transactions:
    """Tells a new step of a boot from its retransmissions, which carry the same `xid` (RFC 2131, section 4.1).

    Some firmware begins every boot with the same `xid`: after `RETRANSMISSION` seconds of silence it is a new boot.
    Keys are steps of registered nodes, so that there are never many of them. One step is told once a second at most.
    """

    RETRANSMISSION = 11.0  # iPXE's longest pause between two is 10 s
    _INTERVAL = 1.0

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[int, float]] = {}

    def is_new(self, step: Hashable, xid: int, now: float) -> bool:
        """Whether this is the first packet of its transaction; if so it is taken as told."""
        last_xid, last = self._last.get(step, (None, 0.0))
        if last_xid == xid and now - last < self.RETRANSMISSION:
            self._last[step] = (xid, now)
            return False
        if last_xid is not None and now - last < self._INTERVAL:
            return False
        self._last[step] = (xid, now)
        return True
