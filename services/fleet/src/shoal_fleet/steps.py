"""Steps of the head's clock: somebody, or NTP, set it. Pure: both clocks are arguments."""

from datetime import datetime, timedelta

_LEAST = timedelta(seconds=1)
"""Less is slewing, or a busy moment between the readings of two clocks."""
_NONE = timedelta(0)


class Steps:
    """Tells by how much the clock was set since it was last asked, from a clock that nobody sets."""

    def __init__(self, now: datetime, steady: float) -> None:
        """`steady`: seconds of a monotonic clock, read at `now`."""
        self._now, self._steady = now, steady

    def since_last(self, now: datetime, steady: float) -> timedelta:
        """The step between the reading before and this one; nothing below a second."""
        step = (now - self._now) - timedelta(seconds=steady - self._steady)
        self._now, self._steady = now, steady
        return step if abs(step) >= _LEAST else _NONE
