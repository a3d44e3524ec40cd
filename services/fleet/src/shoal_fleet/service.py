"""Fleet at work: hears events, heartbeats and logs, and stores what state the nodes are in."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge
from pydantic import BaseModel

from shoal_bus.api import Bus, Store
from shoal_bus.codec import decode, encode
from shoal_bus.errors import BusError, Invalid
from shoal_fleet.census import Census
from shoal_fleet.datagrams import Gate
from shoal_fleet.handlers import Handlers
from shoal_fleet.log_writer import LogSocket, LogWriter
from shoal_fleet.orders import Orders
from shoal_fleet.presence import Limits, Standing, Verdict
from shoal_fleet.stage_logs import StageLogs, boot_name
from shoal_fleet.steps import Steps
from shoal_model.messages import BootEvent, Heartbeat, LogLines, NodeState
from shoal_model.records import Kind
from shoal_model.subjects import BOOT_EVENTS, HEARTBEATS, STATE_BUCKET, Service, Stage, boot_event, node_in
from shoal_service.errors import Fatal
from shoal_service.records import RecordsView

PREFIX = "fleet."
"""Keys in bucket `state`: `fleet.<node>`."""

_LOGS = "evt.node.*.log"
_TICK = 1.0
_OLD = timedelta(seconds=30)
_LOG = structlog.stdlib.get_logger("shoal.fleet")
_REJECTED = Counter(
    "shoal_fleet_rejected",
    "Messages about no node, or about another one than their subject says, or with a bad boot id",
)
_NODES = Gauge("shoal_fleet_nodes", "Nodes by state", ["state"])


class Stored(BaseModel):
    """What is stored of a node under `fleet.<node>`."""

    state: NodeState
    since: datetime
    boot: str | None = None
    stage: Stage | None = None


@dataclass
class Fleet:
    """The parts of a running fleet."""

    bus: Bus
    state: Store
    view: RecordsView
    census: Census
    writer: LogWriter
    now: Callable[[], datetime]
    gone: set[str] = field(default_factory=set)
    """Nodes whose records were removed, and whose state is still to be."""
    steady: Callable[[], float] = time.monotonic
    _heard: int = 0
    _recent: bool = False
    _steps: Steps = field(init=False)

    def __post_init__(self) -> None:
        self._steps = Steps(self.now(), self.steady())

    def clock(self) -> datetime:
        """The time. Where the clock was set meanwhile, the census learns of it before it compares times."""
        now = self.now()
        step = self._steps.since_last(now, self.steady())
        if step:
            _LOG.warning("fleet.clock_stepped", seconds=step.total_seconds())
            self.census.clock_stepped(step)
        return now

    def knows(self, node: str) -> bool:
        """Whether the node is recorded."""
        return node in self.view.snapshot.cluster.nodes

    def _fits(self, subject: str, node: str, boot: str | None) -> bool:
        """Whether a message about a recorded node came on its own subject, with a boot id that may name a file. Others
        are counted, and that is all.
        """
        with suppress(ValueError):
            if node_in(subject) == node and self.knows(node) and (boot is None or boot_name(boot)):
                return True
        _REJECTED.inc()
        return False

    async def events(self) -> None:
        """Follow the boot events of all time: the stream holds a week."""
        async with self.bus.events(BOOT_EVENTS, BootEvent, since=0) as events:
            async for _, subject, event in events:
                if self._fits(subject, event.node, event.boot) and subject == boot_event(event.node, event.stage):
                    self.census.event(event)
                self._heard += 1
                self._recent = event.at >= self.now() - _OLD

    async def logs(self) -> None:
        """Follow the stage logs from where the disk has them."""
        async with self.bus.events(_LOGS, LogLines, since=self.writer.position()) as events:
            async for sequence, subject, lines in events:
                if self._fits(subject, lines.node, lines.boot):
                    await self.writer.lines(lines, sequence)

    async def heartbeat(self, subject: str, heartbeat: Heartbeat) -> None:
        """A heartbeat."""
        if self._fits(subject, heartbeat.node, heartbeat.boot):
            self.census.heartbeat(heartbeat, self.clock())

    def changed(self, kind: Kind, name: str) -> None:
        """A record changed: a node that is no more is forgotten."""
        if kind is Kind.NODE and not self.knows(name):
            self.census.forget(name)
            self.gone.add(name)

    async def tick(self) -> None:
        """Store what changed, every second, for ever; but no state while events of long ago are being read again."""
        heard = -1
        unstored: dict[str, Standing] = {}
        while True:
            await asyncio.sleep(_TICK)
            settled, heard = self._recent or heard == self._heard, self._heard
            if not settled:
                continue
            unstored |= self.census.tick(self.clock())
            for state, number in self.census.counts().items():
                _NODES.labels(state.value).set(number)
            try:
                await self._clear(unstored)
                await self._store(unstored)
            except BusError as error:
                _LOG.warning("fleet.store.retry", waiting=len(unstored), reason=str(error))

    async def _clear(self, unstored: dict[str, Standing]) -> None:
        for node in list(self.gone):
            unstored.pop(node, None)
            if not self.knows(node):
                await self.state.delete(PREFIX + node)
            self.gone.discard(node)

    async def _store(self, unstored: dict[str, Standing]) -> None:
        for node, standing in list(unstored.items()):
            verdict = standing.verdict
            stored = Stored(state=verdict.state, since=standing.since, boot=verdict.boot, stage=verdict.stage)
            await self.state.put(PREFIX + node, encode(stored))
            del unstored[node]
            _LOG.info("fleet.node", node=node, state=verdict.state.value, boot=verdict.boot, stage=verdict.stage)


@dataclass(frozen=True)
class Options:
    """What fleet is told: where logs go, where stage 1 sends them, and when a node is lost."""

    logs: Path
    log_address: tuple[str, int]
    lost_after: timedelta


async def start(
    bus: Bus, view: RecordsView, tasks: asyncio.TaskGroup, options: Options, now: Callable[[], datetime], version: str
) -> asyncio.DatagramTransport:
    """Return when fleet answers, with its log socket; its tasks run on in `tasks`."""
    state = await bus.store(STATE_BUCKET)
    census = Census(Limits(lost=options.lost_after))
    logs = StageLogs(options.logs)
    writer = LogWriter(logs, options.logs / ".position", now)
    fleet = Fleet(bus, state, view, census, writer, now)
    view.on_change(fleet.changed)
    await _restore(fleet)
    orders = Orders(bus, state, now, lambda node: next(census.status([node], fleet.clock())))
    await orders.begin()
    gate = Gate(view.node_by_address)
    transport = await _listen(options.log_address, lambda: LogSocket(gate, writer, census.timeline.latest_id))
    for name, work in (("log writer", writer.run()), ("boot events", fleet.events()), ("logs", fleet.logs())):
        tasks.create_task(work, name=name)
    tasks.create_task(fleet.tick(), name="tick")
    await bus.subscribe(HEARTBEATS, Heartbeat, fleet.heartbeat)
    handlers = Handlers(census, logs, orders, lambda: view.snapshot.cluster.nodes, fleet.clock)
    await bus.serve(Service.FLEET, version, handlers.endpoints())
    return transport


async def _restore(fleet: Fleet) -> None:
    for entry in await fleet.state.load():
        if not entry.key.startswith(PREFIX) or entry.value is None:
            continue
        node = entry.key.removeprefix(PREFIX)
        if not fleet.knows(node):
            fleet.gone.add(node)
            continue
        try:
            stored = decode(entry.value, Stored)
        except Invalid as error:
            _LOG.warning("fleet.state.unreadable", key=entry.key, reason=str(error))
            continue
        verdict = Verdict(stored.state, stored.boot, stored.stage)
        fleet.census.restore(node, Standing(verdict, stored.since), fleet.now())


async def _listen(address: tuple[str, int], make: Callable[[], LogSocket]) -> asyncio.DatagramTransport:
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(make, local_addr=address)
    except OSError as error:
        host, port = address
        advice = "stop what listens there, or choose another address with SHOAL_LISTEN"
        raise Fatal(f"cannot listen for stage logs on UDP {host}:{port}: {error.strerror}; {advice}") from error
    return transport
