"""The registry at work: loads the records, follows them, answers, and lets the effects follow."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

from shoal_bus.api import Bus
from shoal_bus.errors import Invalid
from shoal_identity.trust import Trust
from shoal_model.messages import MachineSeen
from shoal_model.records import Node
from shoal_model.subjects import RECORDS_BUCKET, STATE_BUCKET, Service
from shoal_registry.effects import Effect, Effects, missing_builds
from shoal_registry.handlers import Handlers
from shoal_registry.ledger import Ledger
from shoal_registry.machines import Machines
from shoal_registry.mirror import Batch, Mirror
from shoal_service.errors import Fatal

_QUEUE = 1000
_MACHINES_SEEN = "evt.machine.*.seen"


async def start(
    bus: Bus, tasks: asyncio.TaskGroup, now: Callable[[], datetime], version: str, trust: Trust | None = None
) -> None:
    """Return when the registry answers; its tasks run on in `tasks`. `trust` is that of `Handlers`."""
    records, state = await bus.store(RECORDS_BUCKET), await bus.store(STATE_BUCKET)
    mirror = Mirror()
    batches: asyncio.Queue[Batch] = asyncio.Queue(_QUEUE)

    async def follow() -> None:
        try:
            async for batch in mirror.follow(records):
                await batches.put(batch)
        except Invalid as error:
            raise Fatal(f"{error}; run the release that wrote it, or a newer one") from error

    tasks.create_task(follow(), name="records")
    await mirror.loaded()
    effects = Effects(bus, state)
    await effects.begin(mirror.revision)
    machines = Machines(state, mirror.node_by_mac)
    tasks.create_task(machines.follow(), name="machines")
    builds = missing_builds(mirror.snapshot, None if trust is None else trust.image_keys)
    tasks.create_task(_effects(batches, effects, machines, builds), name="effects")
    ledger = Ledger(records, mirror, now)
    await bus.subscribe(_MACHINES_SEEN, MachineSeen, machines.seen, queue=Service.REGISTRY)
    await bus.serve(Service.REGISTRY, version, Handlers(ledger, mirror, machines, now, trust).endpoints())


async def _effects(
    batches: asyncio.Queue[Batch], effects: Effects, machines: Machines, builds: Iterable[Effect]
) -> None:
    await effects.send(builds)
    while True:
        batch = await batches.get()
        await effects.follow(batch)
        nodes = (moved.after for moved in batch.moved if isinstance(moved.after, Node))
        await machines.forget(mac for node in nodes for mac in (node.mac, *(nic.mac for nic in node.nics)))
