"""The pitfalls P1 to P10 of nats-py and JetStream, each made to happen."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgpack
import pytest
from pydantic import BaseModel

from lab.nats_proxy import NatsProxy, until
from lab.nats_server import NatsServer
from shoal_bus import dialling, jetstream, link, links, pull, reader
from shoal_bus import listening as listenings
from shoal_bus.api import Endpoint, Entry, Write
from shoal_bus.connection import Connection, Credentials, Message, connect
from shoal_bus.errors import Denied, Unavailable
from shoal_bus.nats import NatsBus


class Text(BaseModel):
    text: str = ""
    seconds: float = 0.0


async def echo(_subject: str, text: Text) -> Text:
    await asyncio.sleep(text.seconds)
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


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_p4_a_watch_survives_the_server(nats_server: NatsServer, bus: NatsBus, how: str) -> None:
    """nats-py's watcher is silent for 15 s after a restart."""
    store = await bus.store("records")
    async with store.watch() as entries, asyncio.timeout(30):
        assert await anext(entries) is None
        for number in range(20):
            await store.put(f"node.n{number:03}", b"before")
        getattr(nats_server, how)()
        nats_server.start()
        start = time.monotonic()
        for number in range(20, 40):
            await store.put(f"node.n{number:03}", b"after")
        seen = [await anext(entries) for _ in range(40)]
        assert time.monotonic() - start < 8
    assert [entry and entry.key for entry in seen] == [f"node.n{number:03}" for number in range(40)]
    revisions = [entry.revision for entry in seen if entry]
    assert revisions == sorted(set(revisions))


async def test_p4_events_survive_a_broken_wire(behind: NatsBus, bus: NatsBus, proxy: NatsProxy) -> None:
    async with behind.events("evt.test.>", Text) as events, asyncio.timeout(30):
        for number in range(30):
            await bus.emit("evt.test.a.happened", Text(text=str(number)))
            if number % 10 == 5:
                proxy.cut()
        assert [(await anext(events))[2].text for _ in range(30)] == [str(number) for number in range(30)]


async def test_p4_a_job_outlives_the_server(nats_server: NatsServer, bus: NatsBus) -> None:
    await bus.enqueue("job.test.make", Text(text="a"), id="a")
    async with bus.work("job.test.>", Text) as jobs, asyncio.timeout(30):
        job = await anext(jobs)
        nats_server.restart()
        await job.done()
        await bus.enqueue("job.test.make", Text(text="b"), id="a")
        job = await anext(jobs)
        assert (job.message.text, job.attempt) == ("b", 1)
        await job.done()


async def test_p5_a_delivery_that_is_lost_is_fetched_again(bus: NatsBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py drops what is too much, and goes on as if nothing were missing."""
    original, passed = pull._Arrivals.next, 0

    async def lossy(arrivals: pull._Arrivals) -> Message:
        nonlocal passed
        message = await original(arrivals)
        passed += message.reply.startswith("$JS.ACK")
        return await original(arrivals) if passed == 3 else message

    monkeypatch.setattr(pull._Arrivals, "next", lossy)
    store = await bus.store("records")
    for number in range(6):
        await store.put(f"node.n{number}", b"x")
    assert [entry.key for entry in await store.load()] == [f"node.n{number}" for number in range(6)]
    assert bus.counts["read_again"] == 1


async def test_p5_a_listener_that_is_too_slow_is_told_of(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "_PENDING_MESSAGES", 10)
    release, heard = asyncio.Event(), 0

    async def slow(_message: Message) -> None:
        nonlocal heard
        heard += 1
        await release.wait()

    monkeypatch.setattr(listenings, "_AT_ONCE", 1)
    listening = await bus.connection.listen("test.said", slow)
    for _ in range(50):
        await bus.publish("test.said", Text())
    await until(lambda: bus.counts.get("dropped", 0) > 30)
    release.set()
    await listening.stop()
    assert heard + bus.counts["dropped"] == 50
    assert 0 < len(re.findall(r"bus\.dropped subject=test\.said", caplog.text)) < 10


async def test_p6_ten_thousand_records_load_at_once(bus: NatsBus) -> None:
    """Waiting for each update by itself makes loading four times slower than the wire."""
    store = await bus.store("records")
    for batch in range(12):
        await store.commit([Write(f"node.b{batch}-{n}", b"x" * 400) for n in range(850)])
    start = time.monotonic()
    assert len(await store.load()) == 10_200
    assert time.monotonic() - start < 5


async def test_p7_a_request_whose_caller_has_gone_is_not_carried_out(bus: NatsBus) -> None:
    """A bounded number of handlers run at once; who waits for a place longer than the caller does is spared."""
    handled: list[str] = []

    async def slow(_subject: str, text: Text) -> Text:
        handled.append(text.text)
        await asyncio.sleep(text.seconds)
        return text

    await bus.serve("test", "1.0.0", [Endpoint("rpc.test.v1.slow", Text, slow)])
    fill = [bus.call("rpc.test.v1.slow", Text(text="slow", seconds=0.6), Text) for _ in range(256)]
    filling = asyncio.gather(*fill)
    await until(lambda: len(handled) == 256)
    with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s"):
        await bus.call("rpc.test.v1.slow", Text(text="gone"), Text, timeout=0.2)
    await filling
    assert (await bus.call("rpc.test.v1.slow", Text(text="here"), Text)).text == "here"
    assert handled[256:] == ["here"]
    assert bus.counts["expired"] == 1


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


async def test_p9_an_event_whose_confirmation_is_lost_is_stored_once(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, lost = Connection.exchange, 0

    async def losing(
        self: Connection, subject: str, body: bytes, headers: dict[str, str] | None, *, timeout: float
    ) -> Message:
        nonlocal lost
        answer = await original(self, subject, body, headers, timeout=timeout)
        if subject.startswith("evt.") and lost < 2:
            lost += 1
            raise Unavailable("lost")
        return answer

    monkeypatch.setattr(Connection, "exchange", losing)
    await bus.emit("evt.test.a.happened", Text(text="once"))
    await bus.emit("evt.test.a.happened", Text(text="next"))
    async with bus.events("evt.test.>", Text, since=0) as events, asyncio.timeout(5):
        assert [(await anext(events))[2].text for _ in range(2)] == ["once", "next"]
    assert lost == 2


async def test_p9_an_event_waits_for_the_stream(nats_server: NatsServer) -> None:
    bus = await NatsBus.connect([nats_server.url], name="test", timeout=10)
    emitting = asyncio.create_task(bus.emit("evt.test.a.happened", Text(text="x")))
    await asyncio.sleep(0.05)
    await bus.prepare()
    await emitting
    async with bus.events("evt.test.>", Text, since=0) as events, asyncio.timeout(5):
        assert (await anext(events))[2].text == "x"
    await bus.close()


async def test_p10_what_the_server_marks_as_gone_is_gone(bus: NatsBus) -> None:
    """nats-py gives a live entry without a value for a key whose time to live has passed."""
    store = await bus.store("state")
    await store.put("lease", b"x")
    revision = await jetstream.store(bus.connection, "$KV.state.lease", b"", {"Nats-Marker-Reason": "MaxAge"})
    assert await store.get("lease") is None
    assert list(await store.load()) == [Entry("lease", None, revision)]
    assert await store.put("lease", b"y", expected=revision) > revision


@pytest.mark.parametrize("node", ["n001", "n666"])
async def test_nobody_is_made_to_publish_where_the_asker_may_not(
    nats_server: NatsServer, bus: NatsBus, node: str
) -> None:
    """The asker names the subject of the answer, and a service may write to the records."""

    async def answer(_subject: str, text: Text) -> Text:
        if text.text == "n666":
            raise Denied("not you")
        return text

    heard: list[str] = []

    async def hear(message: Message) -> None:
        heard.append(message.subject)

    await bus.serve("test", "1", [Endpoint("rpc.test.v1.echo", Text, answer)])
    async with await connect([nats_server.url], name=node, timeout=10) as asker:
        await asker.listen("$KV.>", hear)
        await asker.listen("node.>", hear)
        await asker.listen("_INBOX.mine.>", hear)
        link = await asker.link()
        for subject in ("rpc.test.v1.echo", "$SRV.PING.test"):
            for reply in ("$KV.records.node.n001", "node.n002.options", "_INBOX.mine.1"):
                await link.publish(subject, msgpack.packb({"text": node}), reply=reply)
        await until(lambda: bus.counts["replies_refused"] == 4 and len(heard) == 2)
        await link.flush()
    assert heard == ["_INBOX.mine.1", "_INBOX.mine.1"]


@pytest.mark.parametrize("ack", ["none", "explicit"])
async def test_what_a_stream_delivers_is_no_request(bus: NatsBus, caplog: pytest.LogCaptureFixture, ack: str) -> None:
    """Whoever may make consumers could have the server say, in its own name, what was stored once."""
    handled: list[str] = []

    async def handle(subject: str, text: Text) -> Text:
        handled.append(text.text)
        return text

    async def hear(subject: str, text: Text) -> None:
        handled.append(text.text)

    await bus.serve("test", "1", [Endpoint("rpc.test.v1.echo", Text, handle)])
    await bus.subscribe("node.n1.options", Text, hear)
    await bus.emit("evt.test.a.happened", Text(text="stored"))
    link = await bus.connection.link()
    refused = 0
    for subject, group in (("rpc.test.v1.echo", "test"), ("node.n1.options", "")):
        consumer = {"name": f"push-{group}", "filter_subject": "evt.test.>", "ack_policy": ack}
        pushing = {**consumer, "deliver_subject": subject, "deliver_group": group}
        await jetstream.make_consumer(bus.connection, "EVENTS", pushing)
        refused += 1
        await until(lambda: bus.counts.get("stored_refused", 0) == refused)  # noqa: B023
        await jetstream.make_consumer(bus.connection, "EVENTS", {**consumer, "name": f"pull-{group}"})
        await link.publish(f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.pull-{group}", b"", reply=subject)
        refused += 1
        await until(lambda: bus.counts.get("stored_refused", 0) == refused)  # noqa: B023
    assert (await bus.call("rpc.test.v1.echo", Text(text="asked"), Text)).text == "asked"
    assert handled == ["asked"]
    assert "bus.stored_refused subject=rpc.test.v1.echo stored='evt.test.a.happened' reply='$JS.ACK.EV" in caplog.text


async def test_what_was_delivered_into_a_bucket_is_none_of_its_keys(
    bus: NatsBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may read a stream need not be allowed to write to a bucket for that: the server writes for him."""
    store = await bus.store("records")
    await store.put("node.n1", b"x")
    await bus.emit("evt.test.a.happened", Text(text="stored"))
    consumer = {"name": "pull", "filter_subject": "evt.test.>", "ack_policy": "none"}
    await jetstream.make_consumer(bus.connection, "EVENTS", consumer)
    link = await bus.connection.link()
    await link.publish("$JS.API.CONSUMER.MSG.NEXT.EVENTS.pull", b"", reply="$KV.records.node.n2")
    async with asyncio.timeout(10):
        while await reader.last_sequence(bus.connection, "KV_records") < 2:
            pass
    await store.put("node.n3", b"x")
    assert [entry.key for entry in await store.load()] == ["node.n1", "node.n3"]
    assert await store.get("node.n2") is None
    assert re.search(r"bus\.stray stream=KV_records sequence=2 subject='evt\.test\.a\.happened' total=1 ", caplog.text)


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
