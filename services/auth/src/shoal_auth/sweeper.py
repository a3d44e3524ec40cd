"""Cuts connections that speak for a node no more: revoked, replaced, or of a machine that was removed or replaced; and
those that are more than a node needs.

Every replica does, so that it happens whichever of them noted the change and died of it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from shoal_auth import metrics
from shoal_auth.book import Book, binding, binding_key
from shoal_auth.connections import Connections, Peer, user_name
from shoal_auth.excess import excess
from shoal_auth.identity import Identity
from shoal_auth.proofs import is_replaced
from shoal_bus.api import Store
from shoal_bus.errors import BusError
from shoal_model.records import Cluster, Kind

log = structlog.stdlib.get_logger("shoal.auth")

_PATIENCE = 0.5
"""Seconds for the replica that noted a change to be first: it counts what it cuts."""
_PAUSE = 1.0
_EVERY = 60.0
_AGAIN = 5.0
"""Seconds after which to look again, for whom a replica let in that had not heard of the change yet."""
_AT_ONCE = 32


class Sweeper:
    """`run` must run; `changed` is told of every change of the book, `recorded` of every record that changed."""

    def __init__(self, connections: Connections, book: Book, store: Store, cluster: Callable[[], Cluster]) -> None:
        self._connections = connections
        self._book = book
        self._store = store
        self._cluster = cluster
        self._wanted = asyncio.Event()
        self._turn = asyncio.Lock()
        self._cuts: Counter[str] = Counter()

    def changed(self, before: Identity, after: Identity) -> None:
        """Look for connections to cut, if somebody speaks for the node no more."""
        old, new = before.speaker, after.speaker
        if old is not None and (new is None or new.key != old.key):
            self._wanted.set()

    def recorded(self, kind: Kind, name: str) -> None:
        """Look for connections to cut, if who speaks for a node is another machine by now."""
        speaker = self._book.of(name).speaker if kind is Kind.NODE else None
        if speaker is not None and is_replaced(speaker, self._cluster().nodes.get(name)):
            self._wanted.set()

    async def run(self) -> None:
        """Sweep at once, whenever there is a reason and once more then, and every minute, for ever."""
        next_in = _AGAIN
        while True:
            try:
                await self.sweep()
            except BusError as error:
                log.warning("auth.sweep.failed", reason=str(error))
                self._wanted.set()
            await asyncio.sleep(_PAUSE)
            next_in = _AGAIN if await _within(next_in, self._wanted) else _EVERY
            await asyncio.sleep(_PATIENCE)

    def cuts(self, nodes: Iterable[str]) -> int:
        """How many connections of these nodes this replica has cut so far."""
        return sum(self._cuts[node] for node in nodes)

    async def sweep(self) -> None:
        """Cut what is to be cut now. Raises BusError."""
        async with self._turn:
            self._wanted.clear()
            speaking: list[Peer] = []
            stale: list[Peer] = []
            for peer in await self._connections.peers():
                (speaking if self._speaks(peer, self._book.of(peer.node)) else stale).append(peer)
            await _each(stale, self._cut)
            over = excess(speaking)
            for node, count in Counter(peer.node for peer in over).items():
                log.warning("auth.excess", node=node, connections=count, reason="more than it needs: they are cut")
            await _each(over, self._shed)

    async def _cut(self, peer: Peer) -> None:
        """Unless the book is behind what let the peer in: so the leader is asked first. What its server does not cut is
        looked for again soon.
        """
        there = await self._store.get(binding_key(peer.node))
        if self._speaks(peer, binding(there, peer.node)):
            return
        if not await self._connections.cut(peer):
            metrics.NOT_CUT.inc()
            self._wanted.set()
            return
        self._cuts[peer.node] += 1
        metrics.CUT.inc()
        log.info("auth.cut", user=peer.user, server=peer.server, connection=peer.id)

    async def _shed(self, peer: Peer) -> None:
        """Whoever opened so many may go on: so we look again soon."""
        self._wanted.set()
        if await self._connections.cut(peer):
            metrics.EXCESS.inc()

    def _speaks(self, peer: Peer, identity: Identity) -> bool:
        node, speaker = identity.node, identity.speaker
        if speaker is None or user_name(node, speaker) != peer.user:
            return False
        return not is_replaced(speaker, self._cluster().nodes.get(node))


async def _each(peers: Sequence[Peer], cut: Callable[[Peer], Awaitable[None]]) -> None:
    for first in range(0, len(peers), _AT_ONCE):
        await asyncio.gather(*map(cut, peers[first : first + _AT_ONCE]))


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
