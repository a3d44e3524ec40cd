"""The records in memory: what the data plane answers from. Loaded once, then kept current change by change."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from shoal_bus import codec
from shoal_bus.api import Bus, Entry
from shoal_bus.errors import Invalid, Unavailable
from shoal_model import names, subjects
from shoal_model.records import (
    GLOBAL_NAME,
    RECORD_TYPES,
    SECTIONS,
    Cluster,
    Global,
    Kind,
    Node,
    Record,
    parse_key,
)
from shoal_model.resolve import Snapshot

log = logging.getLogger("shoal.records")

_HEAD = "head"
_CLAIM = "claim."


@dataclass(frozen=True)
class _Change:
    """A record as an entry of the bucket has it; None where it is deleted."""

    kind: Kind
    name: str
    record: Record | None


class RecordsView:
    """A live view of bucket `records`, current to within moments. Made by `open`.

    The mappings in `snapshot` are the live ones: what is read from them between two awaits is consistent, and a
    change of many records, one batch with `head` last, becomes visible as one: at its `head`, never before. A record
    that cannot be read is logged and skipped: what it was before, if anything, stays.
    """

    def __init__(self) -> None:
        self.revision = 0
        """The revision of the `head` up to which everything is visible; 0: nothing was ever written."""
        self._records: dict[Kind, dict[str, Any]] = {kind: {} for kind in RECORD_TYPES}
        self._snapshot = self._with(Global())
        self._by_mac: dict[str, str] = {}
        self._by_address: dict[str, str] = {}
        self._staged: list[_Change] = []
        self._staged_revision = 0
        self._moved = asyncio.Event()
        self._callbacks: list[Callable[[Kind, str], None]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, bus: Bus) -> AsyncIterator[Self]:
        """Load the records, and follow them for as long as the context lasts; if that fails, so does the context."""
        view = cls()
        store = await bus.store(subjects.RECORDS_BUCKET)
        loaded = asyncio.Event()
        async with store.watch() as entries, asyncio.TaskGroup() as tasks:
            following = tasks.create_task(view._follow(entries, loaded))
            await loaded.wait()
            log.info("records.loaded nodes=%d revision=%d", len(view.snapshot.cluster.nodes), view.revision)
            try:
                yield view
            finally:
                following.cancel()

    @property
    def snapshot(self) -> Snapshot:
        """The records as they are now."""
        return self._snapshot

    def node_by_mac(self, mac: str) -> str | None:
        """The id of the node that has this hardware address (canonical form) on any of its interfaces."""
        return self._by_mac.get(mac)

    def node_by_address(self, address: str) -> str | None:
        """The id of the node that has this IPv4 address on any of its interfaces."""
        return self._by_address.get(address)

    def on_change(self, callback: Callable[[Kind, str], None]) -> None:
        """Have `callback(kind, name)` run after each record that changed, once all of its batch are visible."""
        self._callbacks.append(callback)

    async def wait_for(self, revision: int, timeout: float = 5.0) -> None:
        """Return when this revision is visible. Raises Unavailable after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self.revision < revision:
                    await self._moved.wait()
        except TimeoutError:
            raise Unavailable(f"the records are at revision {self.revision}, and {revision} did not come") from None

    async def _follow(self, entries: AsyncIterator[Entry | None], loaded: asyncio.Event) -> None:
        all_given = False
        async for entry in entries:
            if entry is None:
                all_given = True
                if self._headless():
                    log.warning("records.unfinished revision=%d: waiting for a head", self._staged_revision)
            else:
                self._stage(entry)
                if entry.key == _HEAD and entry.value is not None:
                    self._apply(entry.revision)
            if all_given and not self._headless():
                loaded.set()

    def _headless(self) -> bool:
        """Whether entries came, but no `head` yet: one that is replaced during the load is not given, the next one is.

        Behind a `head` there may be the beginning of a batch: that is no part of the load, and no reason to wait.
        """
        return self.revision == 0 and self._staged_revision > 0

    def _stage(self, entry: Entry) -> None:
        self._staged_revision = entry.revision
        change = _read(entry)
        if change is not None:
            self._staged.append(change)

    def _apply(self, revision: int) -> None:
        changes, self._staged = self._staged, []
        for change in changes:
            self._take(change)
        self.revision = revision
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        for change in changes:
            for callback in self._callbacks:
                callback(change.kind, change.name)

    def _take(self, change: _Change) -> None:
        records = self._records[change.kind]
        if change.kind == Kind.NODE:
            self._index(change.name, records.get(change.name), change.record)
        if change.record is None:
            records.pop(change.name, None)
        else:
            records[change.name] = change.record
        if change.kind == Kind.GLOBAL:
            self._snapshot = self._with(records.get(GLOBAL_NAME, Global()))

    def _index(self, name: str, before: Node | None, after: Record | None) -> None:
        assert after is None or isinstance(after, Node)
        for index, old, new in (
            (self._by_mac, _macs(before), _macs(after)),
            (self._by_address, _addresses(before), _addresses(after)),
        ):
            for key in old:
                if key not in new and index.get(key) == name:  # another node may have taken it over already
                    del index[key]
            index.update(dict.fromkeys(new, name))

    def _with(self, settings: Global) -> Snapshot:
        """A snapshot over the live mappings: of all it holds, only the global template is a value of its own."""
        sections: dict[str, Any] = {SECTIONS[kind]: self._records[kind] for kind in SECTIONS}
        cluster = Cluster.model_construct(global_=settings, **sections)
        return Snapshot(cluster, self._records[Kind.IMAGE_RELEASE], self._records[Kind.ROOTFS_RELEASE])


def _read(entry: Entry) -> _Change | None:
    """What an entry says of a record; None for `head`, claims, and what cannot be read."""
    if entry.key == _HEAD or entry.key.startswith(_CLAIM):
        return None
    try:
        kind, name = parse_key(entry.key)
        names.name(name)
        if entry.value is None:
            return _Change(kind, name, None)
        return _Change(kind, name, RECORD_TYPES[kind].model_validate(codec.unpack(entry.value)))
    except (ValueError, Invalid) as error:
        log.warning("records.unreadable key=%s revision=%d error=%s", entry.key, entry.revision, _first_line(error))
        return None


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def _macs(node: Node | None) -> list[str]:
    return [] if node is None else [node.mac, *(nic.mac for nic in node.nics)]


def _addresses(node: Node | None) -> list[str]:
    return [] if node is None else [node.address, *(nic.address for nic in node.nics)]
