"""Times as the node tells them."""

import time
from datetime import UTC, datetime

_AHEAD = 86_400.0


def stamp() -> str:
    """Now, as ISO 8601 in UTC: the form of a time in a message made by hand."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def uptime() -> float:
    """Seconds since the kernel started; no step of the clock changes it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def step(seconds: int) -> float | None:
    """Step the clock to `seconds` since 1970 if it is behind, or more than a day ahead; by how many seconds it was off
    (below 0: ahead), else None.

    A dead clock battery leaves a node years away, where no certificate is valid. A clock that is a little ahead stays:
    the head's time on the command line is as old as the boot.
    """
    off = seconds - time.time()
    if -_AHEAD <= off <= 0:
        return None
    time.clock_settime(time.CLOCK_REALTIME, seconds)
    return off
