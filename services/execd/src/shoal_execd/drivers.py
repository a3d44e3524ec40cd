"""Drivers by modalias: what a kernel does not have built in is loaded for the hardware that is there."""

import time
from pathlib import Path

from shoal_execd.journal import Journal
from shoal_execd.processes import BUSYBOX, ProcessFailed, run

_ROUNDS = 3
_TIMEOUT = 120.0
_BATCH = 200
_FOR_ROOT = ("loop", "squashfs", "overlay")


def coldplug(journal: Journal, *, sys: Path = Path("/sys"), rounds: int = _ROUNDS) -> None:
    """Load the drivers of all hardware. A bus driver brings new devices forth, so it is done again until none come."""
    known: set[str] = set()
    for number in range(1, rounds + 1):
        found = modaliases(sys)
        if number > 1 and found <= known:
            break
        _modprobe(journal, sorted(found - known) if number > 1 else sorted(found))
        journal.debug(f"drivers: round {number}, {len(found)} kinds of hardware")
        known |= found
        time.sleep(0.05)  # devices of a bus driver appear a moment after it


def modaliases(sys: Path) -> set[str]:
    """What every device under /sys calls itself towards the drivers."""
    aliases = set()
    for path in (sys / "devices").rglob("modalias"):
        try:
            alias = path.read_text().strip()
        except OSError:
            continue  # the device went away while we looked
        if alias:
            aliases.add(alias)
    return aliases


def load_for_root(journal: Journal) -> None:
    """Load what the root file system needs. Whether it came is seen by the mounts: it may be built in."""
    _modprobe(journal, list(_FOR_ROOT))


def _modprobe(journal: Journal, names: list[str]) -> None:
    for start in range(0, len(names), _BATCH):
        try:
            # Exit codes say nothing here: most hardware needs no driver of ours.
            _, output = run(
                [BUSYBOX, "modprobe", "-a", "-q", *names[start : start + _BATCH]], timeout=_TIMEOUT, check=False
            )
        except ProcessFailed as error:
            journal.info(f"drivers: {error}")
        else:
            journal.debug(output.strip() or "drivers: modprobe said nothing")
