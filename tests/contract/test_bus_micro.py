"""Services show themselves as NATS micro services do (ADR-32), and carry traces and schemas; seen by plain nats-py."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from pydantic import BaseModel

from lab.nats_server import NatsServer
from shoal_bus import codec, trace
from shoal_bus.api import Endpoint
from shoal_bus.errors import NotFound
from shoal_bus.nats import NatsBus


class Ask(BaseModel):
    text: str = ""


async def answer(_subject: str, ask: Ask) -> Ask:
    if ask.text == "missing":
        raise NotFound("no node 'n1':\nadd it first")
    if ask.text == "trace":
        return Ask(text=trace.trace_id() or "")
    return ask


@pytest.fixture
async def plain(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
async def served(bus: NatsBus) -> NatsBus:
    endpoints = [Endpoint("rpc.fleet.v1.log", Ask, answer), Endpoint("rpc.fleet.v1.log.*", Ask, answer)]
    await bus.serve("fleet", "1.2.3", endpoints)
    return bus


async def ask(client: Client, subject: str) -> dict[str, Any]:
    reply = json.loads((await client.request(subject, b"", timeout=2)).data)
    assert isinstance(reply, dict)
    return reply


async def test_ping(plain: Client, served: NatsBus) -> None:
    found = await ask(plain, "$SRV.PING")
    assert found.keys() == {"type", "name", "id", "version", "metadata"}
    assert (found["type"], found["name"], found["version"]) == ("io.nats.micro.v1.ping_response", "fleet", "1.2.3")
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", found["id"])
    assert await ask(plain, "$SRV.PING.fleet") == found
    assert await ask(plain, f"$SRV.PING.fleet.{found['id']}") == found


async def test_every_instance_answers_a_ping(plain: Client, served: NatsBus, nats_server: NatsServer) -> None:
    other = await NatsBus.connect([nats_server.url], name="other", timeout=10)
    await other.serve("fleet", "1.2.4", [])
    inbox = await plain.subscribe(plain.new_inbox())
    await plain.publish("$SRV.PING.fleet", b"", reply=inbox.subject)
    versions = {json.loads((await inbox.next_msg(2)).data)["version"] for _ in range(2)}
    assert versions == {"1.2.3", "1.2.4"}
    await other.close()


async def test_info(plain: Client, served: NatsBus) -> None:
    info = await ask(plain, "$SRV.INFO.fleet")
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert info["description"]
    assert info["endpoints"] == [
        {"name": "rpc_fleet_v1_log", "subject": "rpc.fleet.v1.log", "queue_group": "fleet", "metadata": {}},
        {"name": "rpc_fleet_v1_log_all", "subject": "rpc.fleet.v1.log.*", "queue_group": "fleet", "metadata": {}},
    ]


async def test_stats_count_requests_and_errors(plain: Client, served: NatsBus) -> None:
    for text in ("a", "b", "missing"):
        await plain.request("rpc.fleet.v1.log", codec.pack({"text": text}), timeout=2)
    stats = await ask(plain, "$SRV.STATS.fleet")
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", stats["started"])
    first, second = stats["endpoints"]
    assert (first["num_requests"], first["num_errors"]) == (3, 1)
    assert first["last_error"] == "404: no node 'n1': add it first"
    assert first["average_processing_time"] == first["processing_time"] // 3 > 0
    assert (second["num_requests"], second["num_errors"], second["last_error"]) == (0, 0, "")


async def test_errors_stand_in_the_headers_of_micro_services(plain: Client, served: NatsBus) -> None:
    reply = await plain.request("rpc.fleet.v1.log", codec.pack({"text": "missing"}), timeout=2)
    assert reply.headers == {
        "Nats-Service-Error-Code": "404",
        "Nats-Service-Error": "no node 'n1': add it first",
    }
    assert codec.unpack(reply.data) == {"error": "no node 'n1':\nadd it first"}


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x01", b"text", b"\x81\xa4text\xc0", b"\x81" * 2000])
async def test_a_body_that_is_no_message_is_refused(plain: Client, served: NatsBus, body: bytes) -> None:
    reply = await plain.request("rpc.fleet.v1.log", body, timeout=2)
    assert reply.headers is not None
    assert reply.headers["Nats-Service-Error-Code"] == "400"


async def test_a_body_that_unpacks_too_large_is_refused(plain: Client, served: NatsBus) -> None:
    import zlib

    bomb = zlib.compress(bytes((8 << 20) + 1))
    for body, encoding in ((bomb, "deflate"), (bomb[:100], "deflate"), (b"x", "deflate"), (b"x", "br")):
        reply = await plain.request("rpc.fleet.v1.log", body, timeout=5, headers={"Content-Encoding": encoding})
        assert reply.headers is not None
        assert reply.headers["Nats-Service-Error-Code"] == "400"


async def test_headers_tell_schema_trace_and_deadline(plain: Client, bus: NatsBus) -> None:
    seen = await plain.subscribe("rpc.>")
    heard = await plain.subscribe("evt.>")
    await plain.flush()
    calling = asyncio.create_task(bus.call("rpc.test.v1.x", Ask(), Ask, timeout=0.2))
    headers = (await seen.next_msg(2)).headers or {}
    assert headers["Schema"] == "Ask/1"
    assert headers["Deadline"] == "0.200"
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", headers["traceparent"])
    await asyncio.gather(calling, return_exceptions=True)
    await bus.emit("evt.test.a.happened", Ask(), id="my-id")
    headers = (await heard.next_msg(2)).headers or {}
    assert (headers["Schema"], headers["Nats-Msg-Id"]) == ("Ask/1", "my-id")


async def test_a_trace_goes_from_caller_to_handler(served: NatsBus) -> None:
    trace.enter("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
    assert (await served.call("rpc.fleet.v1.log", Ask(text="trace"), Ask)).text == "0123456789abcdef0123456789abcdef"


async def test_each_request_without_a_trace_begins_one(plain: Client, served: NatsBus) -> None:
    traces = set()
    for header in (None, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 31 + "-" + "0" * 16 + "-01"}):
        reply = await plain.request("rpc.fleet.v1.log", codec.pack({"text": "trace"}), timeout=2, headers=header)
        traces.add(codec.unpack(reply.data)["text"])
    assert len(traces) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}", found) for found in traces)


async def test_a_reply_too_large_for_the_bus_is_an_error_and_not_a_silence(
    plain: Client, bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "_SQUEEZE_ABOVE", 1 << 30)

    async def large(_subject: str, _ask: Ask) -> Ask:
        return Ask(text="x" * (2 << 20))

    await bus.serve("fleet", "1.2.3", [Endpoint("rpc.fleet.v1.large", Ask, large)])
    reply = await plain.request("rpc.fleet.v1.large", codec.pack({}), timeout=2)
    assert reply.headers is not None
    assert reply.headers["Nats-Service-Error-Code"] == "500"
    assert "the answer is too large" in reply.headers["Nats-Service-Error"]
