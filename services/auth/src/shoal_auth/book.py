"""What is stored of all nodes, in memory: decisions are made from it. It follows the bucket, this replica's own writes
included as soon as they are confirmed.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from shoal_auth.identity import Arm, Bound, Held, Identity
from shoal_bus import codec
from shoal_bus.api import Entry, Store, Write
from shoal_bus.errors import Invalid
from shoal_model import names
from shoal_model.messages import Message

log = structlog.stdlib.get_logger("shoal.auth")

_PARTS: dict[str, type[Message]] = {"binding": Bound, "arm": Arm, "quarantine": Held}
"""What the first token of a key says of its value; also the field of `Identity` that holds it."""

Changed = Callable[[Identity, Identity], None]


@dataclass(frozen=True)
class _Part:
    """One key of the bucket, read."""

    node: str
    name: str
    value: Message | None
    revision: int


class Book:
    """See the module; an `Identities` for the proofs."""

    def __init__(self) -> None:
        self._callbacks: list[Changed] = []
        self._identities: dict[str, Identity] = {}
        self._by_key: dict[str, str] = {}
        self._loaded = asyncio.Event()
        self._moved = asyncio.Event()

    def __iter__(self) -> Iterator[Identity]:
        return iter(list(self._identities.values()))

    def of(self, node: str) -> Identity:
        """What is stored of a node."""
        return self._identities.get(node) or Identity(node)

    def with_key(self, key: str) -> Identity | None:
        """See `proofs.Identities`."""
        node = self._by_key.get(key)
        return None if node is None else self.of(node)

    def on_change(self, callback: Changed) -> None:
        """Have `callback(before, after)` run after each change of a node."""
        self._callbacks.append(callback)

    async def loaded(self) -> None:
        """Return when everything that was stored is here."""
        await self._loaded.wait()

    async def beyond(self, seen: Identity) -> None:
        """Return when another state of this node is here than was seen."""
        while self.of(seen.node).revisions == seen.revisions:
            await self._moved.wait()

    async def follow(self, store: Store) -> None:
        """Keep the book current, for ever."""
        async with store.watch() as entries:
            async for entry in entries:
                if entry is None:
                    self._loaded.set()
                else:
                    self.take([entry])

    def take(self, entries: Iterable[Entry]) -> None:
        """Enter what is stored now. What was entered already changes nothing."""
        for entry in entries:
            part = _read(entry)
            if part is not None:
                self._enter(part)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _enter(self, part: _Part) -> None:
        before = self.of(part.node)
        if part.revision <= getattr(before.revisions, part.name):
            return
        after = _with(before, part)
        self._identities[part.node] = after
        for key in _keys(before):
            if self._by_key.get(key) == part.node:
                del self._by_key[key]
        self._by_key.update(dict.fromkeys(_keys(after), part.node))
        for callback in self._callbacks:
            callback(before, after)


def _with(identity: Identity, part: _Part) -> Identity:
    parts: dict[str, Any] = {
        part.name: part.value,
        "revisions": replace(identity.revisions, **{part.name: part.revision}),
    }
    return replace(identity, **parts)


def writes(before: Identity, after: Identity) -> list[Write]:
    """What turns one into the other, if what is stored is still what `before` was."""
    return [
        Write(
            f"{name}.{before.node}",
            None if (value := getattr(after, name)) is None else codec.encode(value),
            getattr(before.revisions, name),
        )
        for name in _PARTS
        if getattr(before, name) != getattr(after, name)
    ]


def stored(group: Sequence[Write], last: int) -> list[Entry]:
    """The entries that a batch became whose last write has this revision: they follow one another."""
    first = last - len(group) + 1
    return [Entry(write.key, write.value, first + index) for index, write in enumerate(group)]


def binding(entry: Entry | None, node: str) -> Identity:
    """An identity of which nothing but the binding is looked at."""
    part = _read(entry) if entry is not None else None
    value = part.value if part is not None and part.name == "binding" else None
    assert value is None or isinstance(value, Bound)
    return Identity(node, binding=value)


def binding_key(node: str) -> str:
    """Where the binding of a node is stored."""
    return f"binding.{names.name(node)}"


def _read(entry: Entry) -> _Part | None:
    """None for what cannot be read: what was there before, if anything, stays."""
    name, _, node = entry.key.partition(".")
    try:
        kind = _PARTS[name]
        value = None if entry.value is None else codec.decode(entry.value, kind)
        return _Part(names.name(node), name, value, entry.revision)
    except (KeyError, ValueError, Invalid) as error:
        log.warning("auth.unreadable", key=entry.key, revision=entry.revision, reason=str(error))
        return None


def _keys(identity: Identity) -> list[str]:
    bound = identity.binding
    return [] if bound is None else [party.key for party in (bound.party, bound.former) if party is not None]
