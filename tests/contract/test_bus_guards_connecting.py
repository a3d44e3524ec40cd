"""Pitfalls of nats-py that a connection meets (P1, P2, P3, P8), each made to happen."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from lab.nats_proxy import NatsProxy, until
from lab.nats_server import NatsServer
from shoal_bus import dialling, link, links
from shoal_bus.api import Endpoint
from shoal_bus.connection import Connection, Credentials, connect
from shoal_bus.errors import Denied, Unavailable
from shoal_bus.nats import NatsBus


class Text(BaseModel):
    text: str = ""


async def echo(_subject: str, text: Text) -> Text:
    return text


ECHO = Endpoint("rpc.test.v1.echo", Text, echo)


async def test_p1_a_server_that_pings_before_it_lets_us_in(proxy: NatsProxy) -> None:
    """nats-py takes the server's PING for success: connect() returns, and every request times out."""

    def ping_first(data: bytes) -> bytes:
        return data.replace(b"PONG\r\n", b"PING\r\nPING\r\nPONG\r\n") if proxy.connections == 1 else data

    proxy.to_client = ping_first
    async with await connect([proxy.url], name="test", timeout=10) as connection:
        proxy.to_client = lambda data: data
        await connection.subscribe("test.echo", _same)
        assert await connection.request("test.echo", {"a": 1}) == {"a": 1}
        assert proxy.connections == 1
        assert connection.counts.total() == 0


async def test_p1_a_server_that_pings_and_then_refuses_us(proxy: NatsProxy) -> None:
    """As an auth callout that takes its time: the refusal is the reason, not the time."""
    proxy.to_client = lambda data: data.replace(b"PONG\r\n", b"PING\r\n-ERR 'Authorization Violation'\r\n")
    with pytest.raises(Unavailable, match=r"the server says: Authorization Violation \(it lets nobody in"):
        await connect([proxy.url], name="test", timeout=1)


async def test_p1_a_server_that_says_something_else_before_it_lets_us_in(proxy: NatsProxy) -> None:
    """An INFO may come at any time, and nats-py takes it for success: it would never send what we ask."""

    def inform_first(data: bytes) -> bytes:
        return data.replace(b"PONG\r\n", b"INFO {}\r\nPONG\r\n") if proxy.connections == 1 else data

    proxy.to_client = inform_first
    async with await connect([proxy.url], name="test", timeout=10) as connection:
        await connection.subscribe("test.echo", _same)
        assert await connection.request("test.echo", {"a": 1}) == {"a": 1}
        assert proxy.connections == 2
        assert connection.counts == {"phantom_connections": 1}


async def test_p1_a_server_that_hangs_up(proxy: NatsProxy) -> None:
    def hang_up(data: bytes) -> bytes:
        if data.startswith(b"INFO"):
            return data
        proxy.cut()
        return b""

    proxy.to_client = hang_up
    with pytest.raises(Unavailable, match=r"ended the connection before it let us in|Connection reset"):
        await connect([proxy.url], name="test", timeout=1)


async def _same(_subject: str, message: dict[str, object]) -> dict[str, object]:
    return message


async def test_p2_an_expired_credential_is_renewed(proxy: NatsProxy) -> None:
    """The error closes nats-py's client for good: a new one must take over its subscriptions."""
    asked = 0

    def credentials() -> Credentials:
        nonlocal asked
        asked += 1
        return Credentials(user=f"node{asked}", password="x")

    async with await connect([proxy.url], name="test", credentials=credentials, timeout=10) as connection:
        await connection.subscribe("test.echo", _same)
        for renewal in range(2, 5):
            proxy.say(b"-ERR 'User Authentication Expired'\r\n")
            await until(lambda: connection.counts["lost_connections"] == renewal - 1)  # noqa: B023
            assert await connection.request("test.echo", {"a": renewal}) == {"a": renewal}
            assert asked == renewal


@pytest.fixture
async def restricted(tmp_path: Path) -> AsyncIterator[Connection]:
    """May publish and subscribe under `mine.` alone."""
    rights = '{publish: ["mine.>", "_INBOX.>"], subscribe: ["mine.>", "_INBOX.>"]}'
    users = f"authorization {{ users: [{{user: node, password: secret, permissions: {rights}}}] }}"
    server = NatsServer(tmp_path / "restricted", config=users)
    server.start()
    try:
        who = Credentials(user="node", password="secret")
        async with await connect([server.url], name="node", credentials=who, timeout=10) as connection:
            yield connection
    finally:
        server.kill()


async def test_p3_a_refused_subscription_is_an_error(restricted: Connection) -> None:
    """For nats-py it succeeds, and hears nothing for ever."""
    await restricted.subscribe("mine.echo", _same)
    with pytest.raises(Denied, match=r"listen to theirs\.echo"):
        await restricted.subscribe("theirs.echo", _same)
    assert restricted.counts["denied"] == 1
    assert await restricted.request("mine.echo", {"a": 1}) == {"a": 1}


async def test_p3_a_refused_message_is_an_error(restricted: Connection) -> None:
    await restricted.publish("mine.said", {})
    await restricted.flush()
    await restricted.publish("theirs.Said", {})
    with pytest.raises(Denied, match=r"send to theirs\.said"):
        await restricted.flush()
    await restricted.flush()
    start = time.monotonic()
    with pytest.raises(Denied, match=r"send to theirs\.echo"):
        await restricted.request("theirs.echo", {}, timeout=30)
    assert time.monotonic() - start < 5


async def test_p3_a_wrong_password_is_told(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "locked", config="authorization { user: node, password: secret }")
    server.start()
    try:
        with pytest.raises(Unavailable, match=r"(?i)authorization violation") as caught:
            await connect([server.url.replace("//", "//node:hush@")], name="x", timeout=1)
        assert "hush" not in str(caught.value)
        async with await connect([server.url.replace("//", "//node:secret@")], name="x", timeout=10) as connection:
            await connection.flush()
    finally:
        server.kill()


async def test_p8_reconnecting_never_ends(
    nats_server: NatsServer, bus: NatsBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """nats-py gives up after 60 attempts."""
    monkeypatch.setattr(links, "_LONGEST_PAUSE", 0.002)
    await bus.serve("test", "1.0.0", [ECHO])
    nats_server.stop()
    await until(lambda: "attempts=70 " in caplog.text, 30)
    assert not bus.connected
    with pytest.raises(Unavailable, match=r"the bus cannot be reached within 0\.1 s: nats://.*Connection refused"):
        await bus.call("rpc.test.v1.echo", Text(), Text, timeout=0.1)
    nats_server.start()
    await until(lambda: bus.connected)
    assert (await bus.call("rpc.test.v1.echo", Text(text="x"), Text)).text == "x"


async def test_p8_the_first_connection_has_a_deadline_and_a_reason() -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"nats://127\.0\.0\.1:1: Connection refused"):
        await NatsBus.connect(["nats://127.0.0.1:1"], name="test", timeout=0.3)
    assert time.monotonic() - start < 3


async def test_p8_any_server_of_the_list_will_do(nats_server: NatsServer) -> None:
    servers = ["nats://127.0.0.1:1", nats_server.url, "nats://127.0.0.1:2"]
    for _ in range(5):
        async with await connect(servers, name="test", timeout=10) as connection:
            assert connection.connected


async def test_a_bus_that_is_dialling_closes(
    nats_server: NatsServer, bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dial may swallow the cancellation that meets it, and the next one would begin."""
    monkeypatch.setattr(links, "_LONGEST_PAUSE", 0.0)
    nats_server.stop()
    await until(lambda: not bus.connected)
    original = dialling.dial

    async def deaf(server: str, name: str, credentials: Credentials, counts: Counter[str]) -> link.Link:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        return await original(server, name, credentials, counts)

    monkeypatch.setattr(links, "dial", deaf)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await bus.close()
