"""The records in memory, following the bucket: whole at every head, never in the middle of a batch.

Every replica sees every change the same way, its own included: nothing but the watch moves the mirror. A decision made
on a mirror that is behind fails at the compare-and-set on `head`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from shoal_bus.api import Entry, Store
from shoal_bus.codec import unpack
from shoal_bus.errors import Invalid, Unavailable
from shoal_model.names import mac_key
from shoal_model.records import RECORD_TYPES, Kind, Record, parse_key
from shoal_model.resolve import Snapshot
from shoal_registry import head
from shoal_registry.head import Head
from shoal_registry.inventory import EMPTY, Key, get, replace


@dataclass(frozen=True)
class Moved:
    """One record that a batch moved. `before` is None too where the mirror began with this batch."""

    key: Key
    before: Record | None
    after: Record | None
    revision: int


@dataclass(frozen=True)
class Batch:
    """What came with one head. `initial`: the bucket as it was found, the work of many batches."""

    head: Head
    revision: int
    moved: tuple[Moved, ...]
    initial: bool


class Mirror:
    """See the module. `snapshot`, `head` and `revision` (that of `head`; 0: nothing was ever written) go together."""

    def __init__(self) -> None:
        self.snapshot: Snapshot = EMPTY
        self.head: Head | None = None
        self.revision = 0
        self._revisions: dict[str, int] = {}
        self._pending: list[Entry] = []
        self._loaded = asyncio.Event()
        self._moved = asyncio.Condition()
        self._node_by_mac: dict[str, str] | None = None

    @property
    def revisions(self) -> Mapping[str, int]:
        """The revision of every key of the bucket, deleted ones included."""
        return self._revisions

    async def loaded(self) -> None:
        """Wait until everything that was in the bucket is here."""
        await self._loaded.wait()

    async def reach(self, revision: int, timeout: float = 5.0) -> None:
        """Wait until the mirror shows this head revision. Raises Unavailable after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._moved:
                await self._moved.wait_for(lambda: self.revision >= revision)
        except TimeoutError:
            behind = f"it shows revision {self.revision}, the store is at {revision}"
            raise Unavailable(f"this registry has not caught up with the store ({behind}): try again") from None

    def node_by_mac(self, mac: str) -> str | None:
        """The node that has this MAC on any of its interfaces."""
        if self._node_by_mac is None:
            self._node_by_mac = {
                mac_key(address): name
                for name, node in self.snapshot.cluster.nodes.items()
                for address in (node.mac, *(nic.mac for nic in node.nics))
            }
        return self._node_by_mac.get(mac_key(mac))

    async def follow(self, store: Store) -> AsyncIterator[Batch]:
        """Keep the mirror current for ever; each batch is given after the mirror shows it.

        Raises Invalid for a record that this release does not understand: its only writer must.
        """
        async with store.watch(after=0) as entries:
            async for entry in entries:
                if entry is None:
                    self._loaded.set()
                    continue
                if entry.revision <= self.revision:
                    continue  # given again after a reconnect
                self._revisions[entry.key] = entry.revision
                self._pending.append(entry)
                if entry.key == head.KEY and entry.value is not None:
                    batch = self._take(entry.value, entry.revision)
                    async with self._moved:
                        self._moved.notify_all()
                    yield batch

    def _take(self, value: bytes, revision: int) -> Batch:
        moved: list[Moved] = []
        for entry in self._pending:
            key = _record_key(entry.key)
            if key is not None:
                moved.append(Moved(key, get(self.snapshot, key), _record(key, entry), entry.revision))
        self._pending.clear()
        self.snapshot = replace(self.snapshot, {item.key: item.after for item in moved})
        self.head, self.revision = Head.decode(value), revision
        self._node_by_mac = None
        return Batch(self.head, revision, tuple(moved), initial=not self._loaded.is_set())


def _record_key(key: str) -> Key | None:
    if key == head.KEY or key.startswith("claim."):
        return None
    try:
        return parse_key(key)
    except ValueError:
        raise Invalid(f"bucket records holds the key {key!r}, which this release does not know") from None


def _record(key: Key, entry: Entry) -> Record | None:
    if entry.value is None:
        return None
    try:
        return RECORD_TYPES[Kind(key[0])].model_validate(unpack(entry.value))
    except (ValidationError, Invalid) as error:
        raise Invalid(f"bucket records: {entry.key} cannot be read by this release: {error}") from error
