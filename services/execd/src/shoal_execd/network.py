"""The boot NIC: found by its address, named `boot0`, given the address from the command line."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shoal_execd.cmdline import Address
from shoal_execd.journal import Journal
from shoal_execd.processes import BUSYBOX, run

NAME = "boot0"
_COMMAND = 10.0
_POLL = 0.1


class NoNetwork(Exception):
    """The boot NIC cannot be used; the text says what was found and what to look at."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds: for the NIC to appear, and for its link before saying so again."""

    appear: float = 30.0
    carrier: float = 30.0


def find(mac: str, net: Path) -> str | None:
    """The name of the interface with this hardware address."""
    return next((name for name, address in interfaces(net).items() if address == mac), None)


def interfaces(net: Path) -> dict[str, str]:
    """Every interface of a device (bridges, `lo` and the like left out) and its hardware address."""
    found = {}
    for path in sorted(net.iterdir()):
        try:
            if (path / "device").exists():
                found[path.name] = (path / "address").read_text().strip()
        except OSError:
            continue  # renamed or gone while we looked
    return found


def await_interface(mac: str, again: Callable[[], None], *, net: Path, patience: Patience) -> str:
    """Wait until the boot NIC is there, calling `again` (drivers) meanwhile. Raises NoNetwork."""
    end = time.monotonic() + patience.appear
    while (name := find(mac, net)) is None:
        if time.monotonic() > end:
            seen = ", ".join(f"{name} {address}" for name, address in interfaces(net).items()) or "none at all"
            raise NoNetwork(
                f"no network interface has the address {mac} that the node booted from (BOOTIF=); there is: {seen}. "
                "If the NIC is missing, the initrd lacks its driver or firmware"
            )
        again()
        time.sleep(1.0)
    return name


def configure(name: str, address: Address) -> None:
    """Name the interface, give it its address and route, bring it up. Raises ProcessFailed. Harmless when repeated."""
    _ip("link", "set", "lo", "up")
    if name != NAME:
        _ip("link", "set", name, "down")
        _ip("link", "set", name, "name", NAME)
    _ip("addr", "flush", "dev", NAME)
    _ip("addr", "add", f"{address.address}/{address.prefix}", "broadcast", "+", "dev", NAME)
    _ip("link", "set", NAME, "up")
    if address.gateway is not None:
        _ip("route", "replace", "default", "via", address.gateway, "dev", NAME)


def await_carrier(journal: Journal, *, net: Path, patience: Patience) -> float:
    """Wait until the link is up, saying every 30 seconds that it is not; the seconds it took."""
    begin = said = time.monotonic()
    while not _carrier(net / NAME / "carrier"):
        now = time.monotonic()
        if now - said >= patience.carrier:
            journal.info(f"{NAME} has no link for {now - begin:.0f} s: look at cable, port and switch; still waiting")
            said = now
        time.sleep(_POLL)
    return time.monotonic() - begin


def _carrier(path: Path) -> bool:
    try:
        return path.read_text().strip() == "1"
    except OSError:
        return False  # EINVAL as long as the interface is down


def _ip(*arguments: str) -> None:
    run([BUSYBOX, "ip", *arguments], timeout=_COMMAND)
