"""Fleet's verbs: message in, domain, message out."""

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from shoal_bus.api import Endpoint
from shoal_bus.errors import NotFound
from shoal_fleet.census import Census
from shoal_fleet.orders import Orders
from shoal_fleet.stage_logs import StageLogs
from shoal_model.messages import (
    BootsReply,
    BootsRequest,
    ExecReply,
    ExecRequest,
    LogReply,
    LogRequest,
    StatusReply,
    StatusRequest,
)
from shoal_model.subjects import Service, rpc

LOG_TAIL = 256 << 10
"""Bytes of a log that a reply carries."""

_NAMED = 10


class Handlers:
    """`nodes` tells which nodes are recorded."""

    def __init__(
        self,
        census: Census,
        logs: StageLogs,
        orders: Orders,
        nodes: Callable[[], Collection[str]],
        now: Callable[[], datetime],
    ) -> None:
        self._census = census
        self._logs = logs
        self._orders = orders
        self._nodes = nodes
        self._now = now

    def endpoints(self) -> list[Endpoint[Any]]:
        """Every verb with its message and handler."""
        return [
            Endpoint(rpc(Service.FLEET, "status"), StatusRequest, self.status),
            Endpoint(rpc(Service.FLEET, "boots"), BootsRequest, self.boots),
            Endpoint(rpc(Service.FLEET, "log"), LogRequest, self.log),
            Endpoint(rpc(Service.FLEET, "exec"), ExecRequest, self.exec),
        ]

    async def status(self, _: str, request: StatusRequest) -> StatusReply:
        """See `StatusRequest`."""
        return StatusReply(nodes=list(self._census.status(self._asked(request.nodes), self._now())))

    async def boots(self, _: str, request: BootsRequest) -> BootsReply:
        """See `BootsRequest`."""
        found = (self._census.timeline.latest(node) for node in self._asked(request.nodes))
        return BootsReply(boots=[boot for boot in found if boot is not None])

    async def log(self, _: str, request: LogRequest) -> LogReply:
        """See `LogRequest`."""
        (node,) = self._asked([request.node])
        boot = self._census.timeline.latest_id(node) or await asyncio.to_thread(self._logs.latest, node)
        if boot is None:
            return LogReply(boot=None, text="")
        return LogReply(boot=boot, text=await asyncio.to_thread(self._logs.tail, node, boot, LOG_TAIL))

    async def exec(self, _: str, request: ExecRequest) -> ExecReply:
        """See `ExecRequest`."""
        self._asked(request.nodes)
        return await self._orders.run(request)

    def _asked(self, nodes: list[str]) -> list[str]:
        """The nodes of a request, every recorded one if it names none. Raises NotFound for those that are not."""
        known = self._nodes()
        strangers = [node for node in nodes if node not in known]
        if strangers:
            more = f" and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
            raise NotFound(f"there is no node {', '.join(strangers[:_NAMED])}{more}")
        return nodes or sorted(known)
