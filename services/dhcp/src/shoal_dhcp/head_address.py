"""Whether the boot interface has the address at which nodes are told to find their head: if not, no node boots."""

import asyncio
import socket
from collections.abc import Callable, Sequence

from pyroute2 import IPRoute
from structlog.stdlib import BoundLogger

from shoal_model.records import Cluster, Kind
from shoal_model.resolve import Unresolvable, boot_network


def addresses_of(interface: str) -> list[str]:
    """The IPv4 addresses of an interface of this machine; none if it is not there. Blocks, and wants no event loop."""
    with IPRoute() as route:
        found = list(route.link_lookup(ifname=interface))
        messages = route.get_addr(family=socket.AF_INET, index=found[0]) if found else ()
        return [str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")) for message in messages]


def complaint(cluster: Cluster, interface: str, addresses: Sequence[str]) -> str | None:
    """What is wrong with the recorded address of the head, and the ways out; None if nothing is, or there is none."""
    try:
        name, network = boot_network(cluster)
    except Unresolvable:
        return None
    head = str(network.head) if network.head is not None else None
    if head is None or head in addresses:
        return None
    has = ", ".join(addresses) or "no IPv4 address"
    return (
        f"nodes are told that their head is {head} (network {name}), but interface {interface} has {has}: none can "
        f"boot. Give {interface} the address {head}, or correct the record with `shoal network set {name} head=…`; "
        "then start the head again"
    )


class HeadAddress:
    """Compares when told to, and logs an error where there is a new one."""

    def __init__(
        self,
        interface: str,
        cluster: Callable[[], Cluster],
        log: BoundLogger,
        addresses: Callable[[str], list[str]] = addresses_of,
    ) -> None:
        self._interface, self._cluster, self._log, self._addresses = interface, cluster, log, addresses
        self._stale = asyncio.Event()
        self._stale.set()
        self._told: str | None = None

    def changed(self, kind: Kind, _: str) -> None:
        """A record changed."""
        if kind is Kind.NETWORK:
            self._stale.set()

    async def run(self) -> None:
        """Compare at once and after each change, until cancelled."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            await self.compare()

    async def compare(self) -> None:
        """Compare once."""
        try:
            addresses = await asyncio.to_thread(self._addresses, self._interface)
        except OSError as error:
            self._log.warning("dhcp.addresses_unknown", interface=self._interface, reason=str(error))
            return
        wrong = complaint(self._cluster(), self._interface, addresses)
        if wrong is not None and wrong != self._told:
            self._log.error("dhcp.head_not_here", interface=self._interface, reason=wrong)
        self._told = wrong
