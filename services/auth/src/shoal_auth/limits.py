"""How often something may happen. Time is an argument, in seconds that never go back."""

from collections.abc import Hashable


class Bucket:
    """`burst` at once, and one more every `every` seconds."""

    def __init__(self, burst: int, every: float) -> None:
        self._burst = burst
        self._every = every
        self._spent = 0.0
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether it may happen now; if so it has."""
        if not self.ready(now):
            return False
        self._spent, self._at = self._counted(now) + 1, now
        return True

    def ready(self, now: float) -> bool:
        """Whether it may happen now."""
        return self._counted(now) + 1 <= self._burst

    def full(self, now: float) -> bool:
        """Whether it is as if nothing had ever happened."""
        return self._counted(now) == 0

    def _counted(self, now: float) -> float:
        return max(self._spent - (now - self._at) / self._every, 0.0)


class Buckets:
    """A bucket for each key, and at most `capacity` of them: while all are in use, what is new may not happen."""

    def __init__(self, burst: int, every: float, capacity: int) -> None:
        self._burst = burst
        self._every = every
        self._capacity = capacity
        self._buckets: dict[Hashable, Bucket] = {}
        self._purged = 0.0

    def take(self, key: Hashable, now: float) -> bool:
        """See `Bucket.take`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._capacity and not self._purge(now):
                return False
            bucket = self._buckets[key] = Bucket(self._burst, self._every)
        return bucket.take(now)

    def ready(self, key: Hashable, now: float) -> bool:
        """See `Bucket.ready`."""
        bucket = self._buckets.get(key)
        return bucket is None or bucket.ready(now)

    def _purge(self, now: float) -> bool:
        """Forget the full ones; looked for once in `every` seconds."""
        if now - self._purged >= self._every:
            self._purged = now
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.full(now)}
        return len(self._buckets) < self._capacity
