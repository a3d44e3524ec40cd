"""What nodes use of the bus: plain maps over `shoal_bus.connection`, without pydantic."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from lab.nats_server import NatsServer
from shoal_bus.api import Endpoint
from shoal_bus.connection import Connection, connect
from shoal_bus.errors import BusError, Conflict, Invalid, Unavailable
from shoal_bus.nats import NatsBus


class Ask(BaseModel):
    node: str
    data: bytes = b""


@pytest.fixture
async def node(nats_server: NatsServer) -> AsyncIterator[Connection]:
    async with await connect([nats_server.url], name="n001", timeout=10) as connection:
        yield connection


def test_nodes_need_no_pydantic() -> None:
    code = "import sys, shoal_bus.connection; print(sorted(m for m in sys.modules if m.startswith('pydantic')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


async def test_a_node_asks_a_service(node: Connection, bus: NatsBus) -> None:
    async def answer(subject: str, ask: Ask) -> Ask:
        if ask.node == "n666":
            raise Conflict("this node is\nnot welcome")
        return Ask(node=subject.rpartition(".")[2], data=ask.data[::-1])

    await bus.serve("registry", "1", [Endpoint("rpc.registry.v1.boot.*", Ask, answer)])
    reply = await node.request("rpc.registry.v1.boot.n001", {"node": "x", "data": b"\x00\xff"})
    assert reply == {"node": "n001", "data": b"\xff\x00"}
    with pytest.raises(Conflict, match=r"^this node is\nnot welcome$"):
        await node.request("rpc.registry.v1.boot.n666", {"node": "n666"})
    with pytest.raises(Invalid, match="Ask: node: Field required"):
        await node.request("rpc.registry.v1.boot.n001", {})
    with pytest.raises(Unavailable, match="nobody answers"):
        await node.request("rpc.registry.v1.nothing", {})


async def test_a_service_asks_a_node(node: Connection, bus: NatsBus) -> None:
    async def execute(subject: str, message: dict[str, Any]) -> dict[str, Any] | None:
        if message["node"] == "bad":
            raise Invalid("no such command")
        if message["node"] == "crash":
            raise RuntimeError("secret")
        return {"node": subject, "data": b"done"}

    await node.subscribe("node.n001.exec", execute)
    assert await bus.call("node.n001.exec", Ask(node="x"), Ask) == Ask(node="node.n001.exec", data=b"done")
    with pytest.raises(Invalid, match="no such command"):
        await bus.call("node.n001.exec", Ask(node="bad"), Ask)
    with pytest.raises(BusError, match=r"^internal error [0-9a-f]{8}$"):
        await bus.call("node.n001.exec", Ask(node="crash"), Ask)


async def test_a_handler_without_an_answer_acknowledges_a_request(node: Connection, bus: NatsBus) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def options(_subject: str, message: dict[str, Any]) -> None:
        await heard.put(message["node"])

    await node.subscribe("node.n001.options", options)
    await bus.publish("node.n001.options", Ask(node="published"))
    await node.publish("node.n001.options", {"node": "by itself"})
    async with asyncio.timeout(5):
        assert {await heard.get(), await heard.get()} == {"published", "by itself"}
    assert await node.request("node.n001.options", {"node": "asked"}) == {}


async def test_what_is_no_message_is_counted_and_the_next_one_heard(node: Connection) -> None:
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def listen(_subject: str, message: dict[str, Any]) -> None:
        await heard.put(message)

    await node.subscribe("node.n001.options", listen)
    await node.publish_raw("node.n001.options", b"\xc1garbage")
    await node.publish("node.n001.options", {"a": 1})
    async with asyncio.timeout(5):
        assert await heard.get() == {"a": 1}
    assert node.counts["rejected"] == 1


async def test_closing_finishes_what_runs_and_sends_what_waits(node: Connection, bus: NatsBus) -> None:
    started = asyncio.Event()
    heard: list[str] = []
    done = asyncio.Event()

    async def slow(_subject: str, _message: dict[str, Any]) -> dict[str, Any]:
        started.set()
        await asyncio.sleep(0.2)
        await node.publish("test.last", {"node": "words"})
        return {"node": "answered"}

    async def listen(_subject: str, ask: Ask) -> None:
        heard.append(ask.node)
        done.set()

    await bus.subscribe("test.last", Ask, listen)
    await node.subscribe("node.n001.exec", slow)
    asking = asyncio.create_task(bus.call("node.n001.exec", Ask(node="x"), Ask))
    await started.wait()
    await node.close()
    assert (await asking).node == "answered"
    async with asyncio.timeout(5):
        await done.wait()
    assert heard == ["words"]
    assert not node.connected
    for attempt in (node.request("a", {}), node.publish("a", {}), node.flush()):
        with pytest.raises(Unavailable):
            await attempt


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 1\r\n", "a..b"])
async def test_a_subject_that_is_none_is_refused(node: Connection, subject: str) -> None:
    async def listen(_subject: str, _message: dict[str, Any]) -> None:
        raise AssertionError

    with pytest.raises(BusError):
        await node.subscribe(subject, listen)
    assert node.connected


async def test_no_servers_and_no_such_server_are_clear_errors() -> None:
    with pytest.raises(Invalid, match="no NATS server is named"):
        await connect([], name="x")
    with pytest.raises(Invalid, match=r"^no NATS server: expected nats://host:port, got 'http://127\.0\.0\.1:1'$"):
        await connect(["http://user:hush@127.0.0.1:1"], name="x", timeout=0.2)


async def test_a_server_that_says_nothing_is_named() -> None:
    """As behind a firewall that drops: the first attempt is still under way when time is up."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        told = rf"^the bus cannot be reached within 0\.3 s: nats://{where}: no answer$"
        with pytest.raises(Unavailable, match=told):
            await connect([f"nats://user:hush@{where}"], name="x", timeout=0.3)


async def test_each_server_that_was_tried_is_told_with_its_cause() -> None:
    servers = ["nats://127.0.0.1:1", "nats://127.0.0.1:2"]
    with pytest.raises(Unavailable) as caught:
        await connect(servers, name="x", timeout=2.0)
    for server in servers:
        assert f"{server}: " in str(caught.value)
    assert str(caught.value).count("Connection refused") == 2
