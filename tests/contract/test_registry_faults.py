"""A registry that is killed in the middle of a change, and a server that is: on a real nats-server, real processes."""

import asyncio
import os
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.nats_server import NatsServer
from shoal_bus.codec import unpack
from shoal_bus.errors import BusError, Unavailable
from shoal_bus.nats import NatsBus
from shoal_model import messages as m
from shoal_model.records import Kind, Node, parse_key
from shoal_model.subjects import RECORDS_BUCKET, Service, rpc
from shoal_registry import claims, document
from shoal_registry.head import Head
from shoal_registry.validate import problems

NODES = 2000


def whole(nodes: int = NODES) -> dict[str, Any]:
    return {
        "networks": {"boot": {"cidr": "10.77.0.0/16", "head": "10.77.0.1", "boot": True}},
        "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
        "templates": {"compute": {"image": "compute"}},
        "nodes": {
            f"n{number:05}": {
                "mac": f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}",
                "address": f"10.77.{1 + (number >> 8)}.{number & 255}",
                "template": "compute",
            }
            for number in range(1, nodes + 1)
        },
    }


@asynccontextmanager
async def process(nats: str, state: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`shoal-registry`, killed at the end of the block if it still runs."""
    script = Path(sysconfig.get_path("scripts")) / "shoal-registry"
    arguments = ["--nats", nats, "--metrics", "127.0.0.1:0", "--state", str(state)]
    with (state / "registry.log").open("ab") as log:
        running = await asyncio.create_subprocess_exec(str(script), *arguments, stderr=log, stdout=log)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def answered(bus: NatsBus) -> m.ExportReply:
    """What is stored, as soon as a registry answers."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await bus.call(rpc(Service.REGISTRY, "export"), m.Empty(), m.ExportReply, timeout=5)
            except Unavailable:
                await asyncio.sleep(0.05)


async def apply(bus: NatsBus, timeout: float = 60) -> m.ChangeReply:
    request = m.ApplyRequest(document=whole(), author="ada")
    return await bus.call(rpc(Service.REGISTRY, "apply"), request, m.ChangeReply, timeout=timeout)


async def check(bus: NatsBus) -> Head:
    """The records are valid, the claims exactly theirs; the head. A batch that is being stored is not looked at."""
    found = await (await bus.store(RECORDS_BUCKET)).load()
    last = next(entry.revision for entry in found if entry.key == "head")
    entries = {entry.key: entry.value for entry in found if entry.value and entry.revision <= last}
    nodes = {
        parse_key(key)[1]: Node.model_validate(unpack(value))
        for key, value in entries.items()
        if key.startswith("node.")
    }
    held = {key: unpack(value)["node"] for key, value in entries.items() if key.startswith("claim.")}
    assert held == {claim: name for name, node in nodes.items() for claim in claims.of(name, node)}
    assert problems(document.parse((await answered(bus)).document)) == []
    return Head.decode(entries["head"])


async def step_stored(bus: NatsBus, number: int) -> None:
    """Return once this step of a change is stored."""
    async with (await bus.store(RECORDS_BUCKET)).watch() as entries:
        async for entry in entries:
            if entry is not None and entry.key == "head" and Head.decode(entry.value or b"").step >= number:
                return


async def test_a_registry_killed_in_the_middle_leaves_a_valid_beginning_that_the_next_completes(
    nats_server: NatsServer, bus: NatsBus, tmp_path: Path
) -> None:
    async with process(nats_server.url, tmp_path) as first:
        await answered(bus)
        changing = asyncio.create_task(apply(bus, timeout=8))
        await step_stored(bus, 3)
        first.kill()
        with pytest.raises(Unavailable):
            await changing
    async with process(nats_server.url, tmp_path) as second:
        stored = (await answered(bus)).document
        head = await check(bus)
        assert head.step < head.steps
        assert 0 < len(stored["nodes"]) < NODES
        reply = await apply(bus)
        assert len(reply.changes) == NODES - len(stored["nodes"])
        assert (await answered(bus)).document == whole()
        head = await check(bus)
        assert head.step == head.steps
        await every_node_was_told_once(bus)
        second.terminate()
        async with asyncio.timeout(10):
            assert await second.wait() == 0


async def every_node_was_told_once(bus: NatsBus) -> None:
    """Events of the change that was cut short, too."""
    told: list[str] = []
    async with bus.events("evt.node.*.changed", m.Changed, since=0) as events, asyncio.timeout(60):
        async for _, _, event in events:
            told.append(event.name)
            if len(set(told)) == NODES:
                break
    assert len(told) == NODES


async def test_a_server_killed_in_the_middle_of_a_change_is_survived(
    nats_server: NatsServer, bus: NatsBus, tmp_path: Path
) -> None:
    async with process(nats_server.url, tmp_path):
        await answered(bus)
        changing = asyncio.create_task(apply(bus, timeout=30))
        await step_stored(bus, 3)
        nats_server.kill()
        await asyncio.sleep(0.5)
        nats_server.start()
        # The operator's request was lost with the connection, or it was not; the change goes on without him.
        await asyncio.gather(changing, return_exceptions=True)
        assert changing.exception() is None or isinstance(changing.exception(), BusError)
        await answered(bus)
        await check(bus)
        await apply(bus)
        assert (await answered(bus)).document == whole()
        await check(bus)


async def test_two_registries_as_processes_share_the_work_and_one_of_them_may_die(
    nats_server: NatsServer, bus: NatsBus, tmp_path: Path
) -> None:
    async with process(nats_server.url, tmp_path) as one, process(nats_server.url, tmp_path):
        await answered(bus)
        lost = 0
        for number in range(1, 61):
            record = whole(number)["nodes"][f"n{number:05}"]
            operations = [m.Operation(action=m.Action.PUT, kind=Kind.NODE, name=f"n{number:05}", record=record)]
            if number == 1:
                operations += [
                    m.Operation(action=m.Action.PUT, kind=kind, name=name, record=whole(0)[section][name])
                    for kind, section, name in (
                        (Kind.NETWORK, "networks", "boot"),
                        (Kind.IMAGE, "images", "compute"),
                        (Kind.TEMPLATE, "templates", "compute"),
                    )
                ]
            if number == 30:
                os.kill(one.pid, 9)
            request = m.ChangeRequest(operations=operations, author="ada")
            try:
                await bus.call(rpc(Service.REGISTRY, "change"), request, m.ChangeReply, timeout=2)
            except Unavailable:  # asked of the one that died: asking again is safe
                lost += 1
                await bus.call(rpc(Service.REGISTRY, "change"), request, m.ChangeReply, timeout=10)
        assert lost <= 2
        assert len((await answered(bus)).document["nodes"]) == 60
        await check(bus)
