"""Times as the node tells them."""

import time
from datetime import UTC, datetime


def stamp() -> str:
    """Now, as ISO 8601 in UTC: the form of a time in a message made by hand."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def uptime() -> float:
    """Seconds since the kernel started; no step of the clock changes it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def step(seconds: int) -> float | None:
    """Step the clock forward to `seconds` since 1970 if it is behind; by how much it was, else None.

    A dead clock battery leaves a node years in the past, where no certificate is valid yet. A clock that is ahead
    stays: the head's time on the command line is as old as the boot.
    """
    behind = seconds - time.time()
    if behind <= 0:
        return None
    time.clock_settime(time.CLOCK_REALTIME, seconds)
    return behind
