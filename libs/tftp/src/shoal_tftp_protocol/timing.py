"""When to send again (RFC 1123 section 4.2.3.2: adaptive, with exponential back-off)."""

INITIAL, SHORTEST, LONGEST = 1.0, 0.25, 8.0
"""Seconds: the first time-out, and the bounds of what round-trip times and back-off make of it."""
_HINT_FLOOR = 0.005


class Retransmission:
    """The retransmission timer of one side. It gives up after `patience` seconds without progress.

    The estimate is that of RFC 6298; after Karn, nothing is learnt from what was sent more than once.
    """

    def __init__(self, now: float, *, patience: float) -> None:
        self.due: float | None = None
        self._fixed: float | None = None
        self._patience = patience
        self._interval = INITIAL
        self._smoothed: float | None = None
        self._variation = 0.0
        self._sent = now
        self._repeated = False
        self._progress = now

    def sent(self, now: float) -> None:
        """Something went out that must be answered."""
        self._sent = now
        self.due = now + self._interval

    def fix(self, interval: float) -> None:
        """Wait this many seconds from now on, whatever the round trips are: the timeout option (RFC 2349)."""
        self._fixed = self._interval = interval
        self._patience = max(self._patience, 3 * interval)

    def answered(self, now: float) -> None:
        """The answer came, and was progress: learn from its time, and forget back-off."""
        if not self._repeated:
            self._learn(now - self._sent)
        self._interval = self._estimate()
        self._repeated = False
        self._progress = now
        self.due = None

    def expired(self, now: float) -> bool:
        """Whether it is time to send again (then back off), after looking at the clock."""
        if self.due is None or now < self.due:
            return False
        self._repeated = True
        if self._fixed is None:
            self._interval = min(2 * self._interval, LONGEST)
        return True

    def hopeless(self, now: float) -> bool:
        """Whether nothing was heard for so long that the other side must be gone."""
        return now - self._progress >= self._patience

    def hint(self) -> None:
        """The other side seems to miss something: send again soon, but not before a true answer can have come."""
        if self.due is not None and self._smoothed is not None:
            self.due = min(self.due, self._sent + max(2 * self._smoothed, _HINT_FLOOR))

    def _learn(self, sample: float) -> None:
        if self._smoothed is None:
            self._smoothed, self._variation = sample, sample / 2
        else:
            self._variation += (abs(sample - self._smoothed) - self._variation) / 4
            self._smoothed += (sample - self._smoothed) / 8

    def _estimate(self) -> float:
        if self._fixed is not None:
            return self._fixed
        if self._smoothed is None:
            return INITIAL
        return min(max(self._smoothed + 4 * self._variation, SHORTEST), LONGEST)
