"""udev before systemd: the drivers of the whole hardware, then out of the way, so that systemd starts its own."""

import contextlib
from collections.abc import Iterator

from shoal_execd.journal import Journal
from shoal_execd.processes import ProcessFailed, run

_DAEMON = "/lib/systemd/systemd-udevd"
_SETTLE = 60.0
_COMMAND = 30.0


@contextlib.contextmanager
def running(journal: Journal) -> Iterator[None]:
    """Have udev run during this block. Raises ProcessFailed if it cannot be started."""
    run([_DAEMON, "--daemon"], timeout=_COMMAND)
    try:
        yield
    finally:
        try:
            run(["udevadm", "control", "--exit"], timeout=_COMMAND)
        except ProcessFailed as error:
            journal.info(f"udev did not stop: {error}")


def coldplug() -> None:
    """Load the drivers of everything that is there, and wait for it. Raises ProcessFailed, after a minute at most."""
    run(["udevadm", "trigger", "--type=subsystems", "--action=add"], timeout=_COMMAND)
    run(["udevadm", "trigger", "--type=devices", "--action=add"], timeout=_COMMAND)
    run(["udevadm", "settle", f"--timeout={_SETTLE:.0f}"], timeout=_SETTLE + _COMMAND)
