"""Which nodes there are. The records in memory follow the registry's moments later: who asks straight after `apply` for
nodes that are not here yet waits those moments.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from shoal_bus.errors import NotFound
from shoal_model.records import Cluster, Kind

_PATIENCE = 2.0
"""Seconds: well within those that an operator's request waits."""
_NAMED = 5


class Recorded:
    """`changed` is told of every record that changed."""

    def __init__(self, cluster: Callable[[], Cluster]) -> None:
        self._cluster = cluster
        self._moved = asyncio.Event()

    def changed(self, kind: Kind, _: str) -> None:
        """A record changed: if it is a node's, those who wait look again."""
        if kind is Kind.NODE:
            self._moved.set()

    async def check(self, nodes: Sequence[str]) -> None:
        """Return when all of these are recorded. Raises NotFound, naming those that are not after 2 s."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while self._missing(nodes):
                    self._moved.clear()
                    await self._moved.wait()
        if missing := self._missing(nodes):
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise NotFound(f"there is no node {', '.join(missing[:_NAMED])}{more}")

    def _missing(self, nodes: Sequence[str]) -> list[str]:
        recorded = self._cluster().nodes
        return [node for node in nodes if node not in recorded]
