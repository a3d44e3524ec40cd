"""Services at work on a server that refuses what `permissions` does not grant: nothing is refused."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import shoal_fleet.service
import shoal_registry.service
from lab.rights import READERS
from lab.secure import SecureServer
from shoal_bus.nats import NatsBus
from shoal_model import messages as m
from shoal_model.permissions import PRINCIPALS
from shoal_model.subjects import BOOT_EVENTS, Service, Stage, boot_event, rpc
from shoal_service.records import RecordsView

DOCUMENT = {
    "networks": {"boot": {"cidr": "127.0.0.0/8", "head": "127.0.0.2", "boot": True}},
    "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
    "templates": {"compute": {"image": "compute"}},
    "nodes": {"n001": {"mac": "52:54:00:77:00:11", "address": "127.0.0.1", "template": "compute"}},
}


def now() -> datetime:
    return datetime.now(UTC)


async def test_services_start_and_work_within_their_permissions(tmp_path: Path) -> None:
    """Registry and fleet as they are, the others by what they ask of the bus: nothing is refused to anybody."""
    server = SecureServer(tmp_path / "nats")
    server.start()
    buses: dict[str, NatsBus] = {}
    try:
        for principal in PRINCIPALS:
            buses[principal] = await server.bus(principal)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            await _work(buses, tasks, tmp_path)
            raise _Done
    except* _Done:
        assert {who: bus.counts["denied"] for who, bus in buses.items() if bus.counts["denied"]} == {}
    finally:
        for bus in buses.values():
            await bus.close()
        server.kill()


class _Done(Exception):
    pass


async def _work(buses: Mapping[str, NatsBus], tasks: asyncio.TaskGroup, folder: Path) -> None:
    operator = buses["operator"]
    await buses["registry"].prepare()
    await shoal_registry.service.start(buses["registry"], tasks, now, "0")
    for service in Service:
        await buses[service].prepare()
    request = m.ApplyRequest(document=DOCUMENT, author="ada")
    applied = await operator.call(rpc(Service.REGISTRY, "apply"), request, m.ChangeReply)
    async with AsyncExitStack() as stack:
        for reader in READERS - {"registry"}:
            view = await stack.enter_async_context(RecordsView.open(buses[reader]))
            await view.wait_for(applied.revision)
            if reader == "fleet":
                options = shoal_fleet.service.Options(folder, ("127.0.0.1", 0), timedelta(seconds=20))
                stack.callback((await shoal_fleet.service.start(buses["fleet"], view, tasks, options, now, "0")).close)
        await _a_boot(buses)


async def _a_boot(buses: Mapping[str, NatsBus]) -> None:
    operator, stage = buses["operator"], Stage.DHCP_OFFER
    event = m.BootEvent(node="n001", stage=stage, at=now(), boot=None, status=m.Status.OK)
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(_: str, event: m.BootEvent) -> None:
        heard.put_nowait(event.node)

    await buses["mcastd"].subscribe("evt.boot.>", m.BootEvent, hear)
    async with operator.events(BOOT_EVENTS, m.BootEvent, since=0) as events:
        for service in ("dhcp", "tftp", "auth"):
            await buses[service].emit(boot_event("n001", stage), event)
            await anext(events)
            assert await heard.get() == "n001"
    await buses["dhcp"].publish("evt.machine.525400770096.seen", m.MachineSeen(mac="52:54:00:77:00:96", at=now()))
    seen = m.MachinesReply(machines=[])
    while not seen.machines:
        seen = await operator.call(rpc(Service.REGISTRY, "discovered"), m.Empty(), m.MachinesReply)
    command = m.ExecRequest(nodes=["n001"], command=["true"], author="ada")
    ran = await operator.call(rpc(Service.FLEET, "exec"), command, m.ExecReply)
    assert ran.results[0].state is m.ExecState.UNREACHABLE
    async with buses["image-builder"].work("job.image.build", m.BuildImageJob) as jobs:
        job = await anext(jobs)
        await job.still_working()
        await job.done()
    await operator.latest("evt.job.>", m.JobDone)
