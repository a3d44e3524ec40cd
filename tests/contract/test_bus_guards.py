"""Pitfalls of nats-py and JetStream in what is stored, delivered and asked (P4 to P7, P9, P10), each made to happen."""

import asyncio
import re
import time

import msgpack
import pytest
from pydantic import BaseModel

from lab.nats_proxy import NatsProxy, until
from lab.nats_server import NatsServer
from shoal_bus import jetstream, link, pull, reader
from shoal_bus import listening as listenings
from shoal_bus.api import Endpoint, Entry, Write
from shoal_bus.connection import Connection, Message, connect
from shoal_bus.errors import Denied, Unavailable
from shoal_bus.nats import NatsBus


class Text(BaseModel):
    text: str = ""
    seconds: float = 0.0


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
