"""Fleet as others meet it, on the bus in memory and on a real nats-server, with a registry that knows the nodes."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel

import shoal_fleet.service
import shoal_registry.service
from shoal_bus.api import Bus, Endpoint, Entry
from shoal_bus.codec import unpack
from shoal_bus.errors import Denied, NotFound
from shoal_bus.fakes import MemoryBus
from shoal_fleet.commands import OUTPUT_BUDGET
from shoal_fleet.orders import Orders
from shoal_model import messages as m
from shoal_model.subjects import Service, Stage, boot_event, node_log, node_topic, rpc
from shoal_service.errors import Fatal
from shoal_service.records import RecordsView

R = TypeVar("R", bound=BaseModel)
Clients = Callable[[], Awaitable[Bus]]
Setup = Callable[[asyncio.TaskGroup], Awaitable[Any]]

DOCUMENT: dict[str, Any] = {
    "networks": {"boot": {"cidr": "127.0.0.0/8", "head": "127.0.0.2", "boot": True}},
    "nodes": {
        "n001": {"mac": "52:54:00:77:00:11", "address": "127.0.0.1"},
        "n002": {"mac": "52:54:00:77:00:12", "address": "127.0.0.12"},
    },
}


@pytest.fixture
async def recorded(clients: Clients) -> AsyncIterator[Clients]:
    """Makes participants on one bus, on which a registry answers and two nodes are recorded."""
    bus = await clients()
    async with living(lambda tasks: shoal_registry.service.start(bus, tasks, now, "0")):
        request = m.ApplyRequest(document=DOCUMENT, author="ada")
        await bus.call(rpc(Service.REGISTRY, "apply"), request, m.ChangeReply, timeout=30)
        yield clients


def now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def living(setup: Setup) -> AsyncIterator[None]:
    """A service that answers, until the block ends."""
    answers = asyncio.Event()

    async def live() -> None:
        async with asyncio.TaskGroup() as tasks:
            await setup(tasks)
            answers.set()

    task = asyncio.create_task(live())
    ready = asyncio.create_task(answers.wait())
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    assert answers.is_set(), "the service did not start"
    yield
    assert not task.done(), "the service ended by itself"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def fleet(bus: Bus, logs: Path, *, lost_after: float = 20.0) -> AsyncIterator[int]:
    """A fleet that answers; gives the port of its log socket."""
    options = shoal_fleet.service.Options(logs, ("127.0.0.1", 0), timedelta(seconds=lost_after))
    transports: list[asyncio.DatagramTransport] = []

    async with RecordsView.open(bus) as view:

        async def setup(tasks: asyncio.TaskGroup) -> None:
            transports.append(await shoal_fleet.service.start(bus, view, tasks, options, now, "0"))

        async with living(setup):
            yield transports[0].get_extra_info("sockname")[1]
            await bus.drain()
        transports[0].close()


async def ask(bus: Bus, verb: str, request: BaseModel, reply: type[R]) -> R:
    return await bus.call(rpc(Service.FLEET, verb), request, reply, timeout=30)


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as it holds; fail after 15 s."""
    async with asyncio.timeout(15):
        while not await check():  # noqa: ASYNC110 - nothing tells us when it does
            await asyncio.sleep(0.02)


def event(stage: Stage, boot: str | None, seconds: float = 0, node: str = "n001") -> m.BootEvent:
    return m.BootEvent(node=node, stage=stage, at=now() + timedelta(seconds=seconds), boot=boot)


async def emit(bus: Bus, one: m.BootEvent) -> None:
    await bus.emit(boot_event(one.node, one.stage), one)


def heartbeat(node: str = "n001", boot: str = "b1") -> m.Heartbeat:
    return m.Heartbeat(node=node, boot=boot, at=now(), uptime=1, load=0, memory_total=2, memory_available=1)


async def states(bus: Bus) -> dict[str, m.NodeState]:
    return {status.node: status.state for status in (await ask(bus, "status", m.StatusRequest(), m.StatusReply)).nodes}


async def test_a_boot_is_told_and_outlives_fleet(recorded: Clients, tmp_path: Path) -> None:
    bus = await recorded()

    async def latest() -> list[str]:
        boots = (await ask(bus, "boots", m.BootsRequest(nodes=["n001", "n002"]), m.BootsReply)).boots
        return [one.stage.value for boot in boots for one in boot.events]

    async def told(number: int) -> bool:
        return len(await latest()) == number

    async with fleet(await recorded(), tmp_path):
        await emit(bus, event(Stage.DHCP_OFFER, None, -3))
        await emit(bus, event(Stage.DHCP_ACK, None, -2))
        await emit(bus, event(Stage.LOADER_CONFIG, "b1", -1))
        await bus.emit(boot_event("n002", Stage.STAGE1_START), event(Stage.STAGE1_START, "b1"))  # in another's name
        await bus.emit(boot_event("n999", Stage.STAGE1_START), event(Stage.STAGE1_START, "b1", node="n999"))
        await until(lambda: told(3))
    await emit(bus, event(Stage.STAGE1_START, "b1"))
    async with fleet(await recorded(), tmp_path):
        await until(lambda: told(4))
        assert await latest() == ["dhcp.offer", "dhcp.ack", "loader.config", "stage1.start"]
        assert (await states(bus)) == {"n001": m.NodeState.BOOTING, "n002": m.NodeState.UNKNOWN}
        with pytest.raises(NotFound, match="there is no node n999"):
            await ask(bus, "boots", m.BootsRequest(nodes=["n999"]), m.BootsReply)


async def test_states_follow_heartbeats_and_only_transitions_are_stored(recorded: Clients, tmp_path: Path) -> None:
    bus = await recorded()
    state = await bus.store("state")
    stored: list[tuple[str, str]] = []

    def note(entry: Entry | None) -> None:
        if entry is not None and entry.key.startswith("fleet.") and entry.value is not None:
            stored.append((entry.key, unpack(entry.value)["state"]))

    async def watch() -> None:
        async with state.watch() as entries:
            async for entry in entries:
                note(entry)

    async def reached(*wanted: str) -> bool:
        return [what for _, what in stored] == list(wanted)

    watching = asyncio.create_task(watch())
    async with fleet(await recorded(), tmp_path, lost_after=2.0):
        await emit(bus, event(Stage.LOADER_CONFIG, "b1"))
        await until(lambda: reached("booting"))
        for _ in range(20):
            await bus.publish(node_topic("n001", "heartbeat"), heartbeat())
            await bus.publish(node_topic("n002", "heartbeat"), heartbeat())  # in another's name: not heard
            await asyncio.sleep(0.1)
        assert stored == [("fleet.n001", "booting"), ("fleet.n001", "up")]
        (status,) = (await ask(bus, "status", m.StatusRequest(nodes=["n001"]), m.StatusReply)).nodes
        assert status.heartbeat is not None
        await until(lambda: reached("booting", "up", "lost"))
    async with fleet(await recorded(), tmp_path, lost_after=2.0):
        await asyncio.sleep(1.5)
        assert (await states(bus))["n001"] is m.NodeState.LOST
        assert len(stored) == 3
        await bus.publish(node_topic("n001", "heartbeat"), heartbeat())
        await until(lambda: reached("booting", "up", "lost", "up"))
        delete = m.Operation.model_validate({"action": "delete", "kind": "node", "name": "n001"})
        request = m.ChangeRequest(operations=[delete], author="ada")
        await bus.call(rpc(Service.REGISTRY, "change"), request, m.ChangeReply)

        async def gone() -> bool:
            return await state.get("fleet.n001") is None

        await until(gone)
        assert await states(bus) == {"n002": m.NodeState.UNKNOWN}
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_stage_logs_come_over_the_bus_and_by_datagram(recorded: Clients, tmp_path: Path) -> None:
    bus, logs = await recorded(), tmp_path / "logs"

    async def text() -> list[str]:
        reply = await ask(bus, "log", m.LogRequest(node="n001"), m.LogReply)
        return [line.split(" ", 2)[2] for line in reply.text.splitlines()]

    async def said(*wanted: str) -> bool:
        return await text() == list(wanted)

    async def known() -> bool:
        return bool((await ask(bus, "boots", m.BootsRequest(nodes=["n001"]), m.BootsReply)).boots)

    def lines(sequence: int, *text: str, node: str = "n001") -> m.LogLines:
        return m.LogLines(node=node, boot="b1", stage="stage1", sequence=sequence, lines=list(text))

    async with fleet(await recorded(), logs) as port:
        await emit(bus, event(Stage.LOADER_CONFIG, "b1"))
        await until(known)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
            node.bind(("127.0.0.1", 0))
            node.sendto(b"no carrier\n", ("127.0.0.1", port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.99", 0))
            stranger.sendto(b"let me in\n", ("127.0.0.1", port))
        await until(lambda: said("no carrier"))
        await bus.publish(node_log("n001"), lines(0, "one", "two\x1b[2J"))
        await bus.publish(node_log("n002"), lines(1, "in another's name"))
        await until(lambda: said("no carrier", "one", "two\\x1b[2J"))
    await bus.publish(node_log("n001"), lines(1, "while fleet was away"))
    async with fleet(await recorded(), logs):
        await until(lambda: said("no carrier", "one", "two\\x1b[2J", "while fleet was away"))

    async def nothing_else() -> bool:  # a position that is being written when fleet ends has another name for a moment
        return {name for _, _, names in os.walk(logs) for name in names} == {"b1.log", ".position"}

    await until(nothing_else)


async def test_a_command_runs_on_all_nodes_at_once(recorded: Clients, tmp_path: Path) -> None:
    bus, node = await recorded(), await recorded()
    both = asyncio.Barrier(2)

    async def execute(subject: str, order: m.NodeExec) -> m.NodeExecReply:
        async with asyncio.timeout(5):
            await both.wait()  # passes only if both nodes are asked at the same time
        return m.NodeExecReply(exit_code=0, stdout=" ".join(order.command).encode(), stderr=b"")

    async def refuse(subject: str, order: m.NodeExec) -> m.NodeExecReply:
        raise Denied("not today")

    async with fleet(await recorded(), tmp_path):
        subject = node_topic("n001", "exec")
        endpoints = [Endpoint(node_topic(name, "exec"), m.NodeExec, execute) for name in ("n001", "n002")]
        served = await node.serve("node", "0", endpoints)
        request = m.ExecRequest(nodes=["n001", "n002", "n001"], command=["uname", "-r"], author="ada")
        reply = await ask(bus, "exec", request, m.ExecReply)
        assert [(one.node, one.state, one.stdout) for one in reply.results] == [
            ("n001", "success", b"uname -r"),
            ("n002", "success", b"uname -r"),
        ]
        await served.stop()
        await node.serve("node", "0", [Endpoint(subject, m.NodeExec, refuse)])
        second = await ask(bus, "exec", request, m.ExecReply)
        assert [(one.node, one.state) for one in second.results] == [("n001", "failed"), ("n002", "unreachable")]
        assert [one.error for one in second.results] == ["not today", "not up: it never booted"]
        with pytest.raises(NotFound, match="there is no node n003"):
            await ask(bus, "exec", request.model_copy(update={"nodes": ["n001", "n003"]}), m.ExecReply)
        entry = await (await bus.store("state")).get(f"exec.{reply.id}")
        assert entry is not None
        kept = unpack(entry.value or b"")
        assert (kept["author"], kept["command"], len(kept["results"])) == ("ada", ["uname", "-r"], 2)


async def test_a_thousand_nodes_are_asked_at_once_and_their_output_fits_one_reply(clients: Clients) -> None:
    """However many there are: in waves, a long command would outlast whoever asked for it."""
    bus, node = await clients(), await clients()
    names = [f"n{number:04}" for number in range(1000)]
    all_of_them = asyncio.Barrier(len(names))

    async def execute(subject: str, order: m.NodeExec) -> m.NodeExecReply:
        async with asyncio.timeout(order.timeout):
            await all_of_them.wait()
        told = subject.encode() + b"x" * (300 << 10)
        return m.NodeExecReply(exit_code=0, stdout=told[: order.output], stderr=b"")

    await node.serve("node", "0", [Endpoint(node_topic(name, "exec"), m.NodeExec, execute) for name in names])
    orders = Orders(bus, await bus.store("state"), now, lambda name: m.NodeStatus(node=name, state=m.NodeState.UP))
    await orders.begin()
    reply = await orders.run(m.ExecRequest(nodes=names, command=["dmesg"], author="ada", timeout=60))
    assert [one.node for one in reply.results] == names
    assert {one.state for one in reply.results} == {m.ExecState.SUCCESS}
    assert all(one.cut and one.stdout.startswith(node_topic(one.node, "exec").encode()) for one in reply.results)
    assert sum(len(one.stdout) for one in reply.results) <= OUTPUT_BUDGET


async def test_messages_of_an_enemy_are_counted_and_break_nothing(recorded: Clients, tmp_path: Path) -> None:
    bus, logs = await recorded(), tmp_path / "logs"

    async def known() -> bool:
        return (await states(bus))["n002"] is m.NodeState.BOOTING

    async with fleet(await recorded(), logs) as port:
        for subject in ("evt.boot.n001.stage1.start", "evt.boot.n001", "evt.node.n001.log", "node.n001.heartbeat"):
            await bus.publish(subject, m.Empty())
        await bus.emit("evt.boot.n001.x", event(Stage.STAGE1_START, "../../etc/passwd"))
        await bus.publish("node.n001.heartbeat", heartbeat(boot="../../etc/passwd"))
        evil = m.LogLines(node="n001", boot="../../evil", stage="../..", sequence=5, lines=["x"])
        await bus.publish(node_log("n001"), evil)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
            node.bind(("127.0.0.1", 0))
            for size in (0, 1, 60_000):
                node.sendto(os.urandom(size), ("127.0.0.1", port))
        await emit(bus, event(Stage.LOADER_CONFIG, "b1", node="n002"))
        await until(known)
        assert (await states(bus))["n001"] is m.NodeState.UNKNOWN
        assert (await ask(bus, "boots", m.BootsRequest(nodes=["n001"]), m.BootsReply)).boots == []
    written = {name for _, _, names in os.walk(tmp_path) for name in names if name.endswith(".log")}
    assert written - {"nats.log"} == {"unknown.log"}


async def test_a_port_that_is_taken_is_a_clear_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        options = shoal_fleet.service.Options(tmp_path, ("127.0.0.1", port), timedelta(seconds=20))
        bus = MemoryBus()
        async with RecordsView.open(bus) as view, asyncio.TaskGroup() as tasks:
            with pytest.raises(Fatal, match=f"UDP 127.0.0.1:{port}: .*; stop what listens there, or choose another"):
                await shoal_fleet.service.start(bus, view, tasks, options, now, "0")
