"""Remote commands carried out: on all nodes at once, on every node its own request; kept in the history."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime

import structlog
from prometheus_client import Counter

from shoal_bus.api import Bus, Store
from shoal_bus.codec import pack
from shoal_bus.connection import NoResponders
from shoal_bus.errors import BusError
from shoal_fleet import commands
from shoal_model.messages import ExecReply, ExecRequest, ExecResult, NodeExec, NodeExecReply, NodeStatus
from shoal_model.subjects import node_topic

_GRACE = 5.0
_LOG = structlog.stdlib.get_logger("shoal.fleet")
_RESULTS = Counter("shoal_fleet_exec_results", "Results of remote commands on nodes", ["state"])


class Orders:
    """Runs commands; `begin` first. `status` tells how a node is."""

    def __init__(
        self, bus: Bus, state: Store, now: Callable[[], datetime], status: Callable[[str], NodeStatus]
    ) -> None:
        self._status = status
        self._bus = bus
        self._state = state
        self._now = now
        self._kept: list[str] = []

    async def begin(self) -> None:
        """Learn what the history holds."""
        entries = await self._state.load()
        prefix = commands.HISTORY_PREFIX
        self._kept = [entry.key for entry in entries if entry.key.startswith(prefix) and entry.value is not None]

    async def run(self, request: ExecRequest) -> ExecReply:
        """Run a command on all nodes of the request. A node that does not answer is a result, not an error."""
        identity = secrets.token_hex(8)
        nodes = list(dict.fromkeys(request.nodes))
        _LOG.info("fleet.exec", id=identity, author=request.author, nodes=len(nodes), command=request.command)
        allowed = commands.allowance(len(nodes))
        order = NodeExec(id=identity, command=request.command, timeout=request.timeout, output=allowed)
        gathered = commands.Gathered()
        # All wait at the same time, however many: in waves, the last would answer when nobody waits for it any more.
        async with asyncio.TaskGroup() as tasks:
            for node in nodes:
                tasks.create_task(self._on(node, order, gathered))
        results = gathered.of(nodes)
        for one in results:
            _RESULTS.labels(one.state.value).inc()
        counts = {state: sum(one.state == state for one in results) for state in {one.state for one in results}}
        _LOG.info("fleet.exec.done", id=identity, author=request.author, **{str(key): n for key, n in counts.items()})
        await self._remember(identity, request, results)
        return ExecReply(id=identity, results=results)

    async def _on(self, node: str, order: NodeExec, gathered: commands.Gathered) -> None:
        subject, wait = node_topic(node, "exec"), order.timeout + _GRACE
        try:
            reply = await self._bus.call(subject, order, NodeExecReply, timeout=wait)
            gathered.add(commands.result(node, reply, order.output))
        except NoResponders:
            gathered.add(commands.absent(self._status(node)))
        except BusError as error:
            gathered.add(commands.failure(node, error))

    async def _remember(self, identity: str, request: ExecRequest, results: list[ExecResult]) -> None:
        """The command has run: that the history could not be written is logged, and no reason to hide its results."""
        key = f"{commands.HISTORY_PREFIX}{identity}"
        try:
            await self._state.put(key, pack(commands.history(identity, request, results, self._now())))
            self._kept.append(key)
            while len(self._kept) > commands.HISTORY:
                await self._state.delete(self._kept.pop(0))
        except BusError as error:
            _LOG.error("fleet.exec.history", id=identity, reason=str(error))
