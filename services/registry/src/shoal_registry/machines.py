"""Discovered machines: MACs that asked for an address and are in no record."""

from collections.abc import Callable, Iterable

import structlog
from prometheus_client import Counter

from shoal_bus.api import Entry, Store
from shoal_bus.codec import decode, encode
from shoal_bus.errors import Invalid
from shoal_model.messages import Machine, MachineSeen
from shoal_model.names import mac_key

PREFIX = "machine."
LIMIT = 10_000
"""Machines on the list; whoever was not seen for longest makes room."""

_REJECTED = Counter("shoal_registry_machines_rejected", "Events about another machine than their subject says")
_LOG = structlog.stdlib.get_logger("shoal.registry")


def merge(known: Machine | None, seen: MachineSeen) -> Machine:
    """A machine after it was seen once more; what this request did not say stays as it was said before. Pure."""
    if known is None:
        return Machine(first_seen=seen.at, last_seen=seen.at, **seen.model_dump(exclude={"at"}))
    said = {field: value for field, value in seen.model_dump(exclude={"at"}).items() if value is not None}
    times = {"first_seen": min(known.first_seen, seen.at), "last_seen": max(known.last_seen, seen.at)}
    return known.model_copy(update={**said, **times})


class Machines:
    """The list, kept in bucket `state` under `machine.<mac hex>` and in memory by a watch on it."""

    def __init__(self, state: Store, node_by_mac: Callable[[str], str | None], limit: int = LIMIT) -> None:
        self._state = state
        self._node_by_mac = node_by_mac
        self._limit = limit
        self._by_key: dict[str, Machine] = {}

    async def follow(self) -> None:
        """Keep the memory current, for ever."""
        async with self._state.watch(after=0) as entries:
            async for entry in entries:
                if entry is not None and entry.key.startswith(PREFIX):
                    self._take(entry)

    def _take(self, entry: Entry) -> None:
        self._by_key.pop(entry.key, None)
        if entry.value is not None:
            try:
                self._by_key[entry.key] = decode(entry.value, Machine)
            except Invalid as error:
                _LOG.warning("registry.machine.unreadable", key=entry.key, reason=str(error))

    async def seen(self, subject: str, message: MachineSeen) -> None:
        """`evt.machine.<mac hex>.seen`. A message that its subject contradicts is counted, and that is all."""
        if subject.split(".")[2:3] != [mac_key(message.mac)]:
            _REJECTED.inc()
            return
        if self._node_by_mac(message.mac) is not None:
            return
        key = PREFIX + mac_key(message.mac)
        if key not in self._by_key and len(self._by_key) >= self._limit:
            await self._state.delete(min(self._by_key, key=lambda old: self._by_key[old].last_seen))
        await self._state.put(key, encode(merge(self._by_key.get(key), message)))

    async def forget(self, macs: Iterable[str]) -> None:
        """Take machines that became nodes off the list."""
        for mac in macs:
            if (key := PREFIX + mac_key(mac)) in self._by_key:
                await self._state.delete(key)

    def listed(self) -> list[Machine]:
        """The list, last seen first."""
        unknown = (machine for machine in self._by_key.values() if self._node_by_mac(machine.mac) is None)
        return sorted(unknown, key=lambda machine: machine.last_seen, reverse=True)
