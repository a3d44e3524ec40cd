"""What time and the records make of what is stored: nodes that were removed speak no more, and what is over goes."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime

import structlog

from shoal_auth import metrics, notices
from shoal_auth.identity import Identity, tidy
from shoal_auth.ledger import Ledger
from shoal_auth.outbox import Outbox
from shoal_bus.errors import BusError
from shoal_model.records import Cluster, Kind

log = structlog.stdlib.get_logger("shoal.auth")

_EVERY = 60.0
_PAUSE = 1.0
_AT_ONCE = 200
_AUTHOR = "auth: the node was removed"


class Housekeeping:
    """`run` must run; `changed` is told of every record that changed."""

    def __init__(
        self, ledger: Ledger, outbox: Outbox, cluster: Callable[[], Cluster], now: Callable[[], datetime]
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._cluster = cluster
        self._now = now
        self._wanted = asyncio.Event()

    def changed(self, kind: Kind, name: str) -> None:
        """A record changed: if it is a node's that was removed, whoever speaks for it must go."""
        if kind is Kind.NODE and name not in self._cluster().nodes:
            self._wanted.set()

    async def run(self) -> None:
        """At once, when a node is removed, and about every minute, for ever."""
        while True:
            self._wanted.clear()
            await self._tidy_all()
            await asyncio.sleep(_PAUSE)
            try:
                async with asyncio.timeout(random.uniform(_EVERY / 2, _EVERY)):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _tidy_all(self) -> None:
        at = self._now()
        identities = list(self._ledger.book)
        metrics.NODES.labels("bound").set(sum(one.speaker is not None for one in identities))
        metrics.NODES.labels("armed").set(sum(one.armed(at) for one in identities))
        metrics.NODES.labels("quarantined").set(sum(bool(one.held) for one in identities))
        untidy = [one.node for one in identities if self._tidied(one) != one]
        for first in range(0, len(untidy), _AT_ONCE):
            await asyncio.gather(*map(self._tidy, untidy[first : first + _AT_ONCE]))

    async def _tidy(self, node: str) -> None:
        try:
            before, after = await self._ledger.change(node, self._tidied)
        except BusError as error:
            log.warning("auth.untidy", node=node, reason=str(error))
            return
        if before.speaker is not None and after.speaker is None:
            log.info("auth.removed", node=node)
            self._outbox.put([notices.changed(node, "revoked", _AUTHOR, self._now(), before.speaker)])

    def _tidied(self, identity: Identity) -> Identity:
        return tidy(identity, self._now(), recorded=identity.node in self._cluster().nodes)
