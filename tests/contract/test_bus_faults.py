"""What goes wrong between a client and nats-server, beside the pitfalls of `test_bus_guards`, made to happen."""

import asyncio
import logging
import socket
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from lab.nats_proxy import NatsProxy, until
from lab.nats_server import NatsServer
from shoal_bus import jetstream, kv, pull
from shoal_bus.api import Endpoint, Entry, Write
from shoal_bus.connection import Message, connect
from shoal_bus.errors import BusError, Unavailable
from shoal_bus.link import Link
from shoal_bus.nats import NatsBus
from shoal_bus.pull import Stored


class Text(BaseModel):
    text: str = ""
    seconds: float = 0.0


async def echo(_subject: str, text: Text) -> Text:
    await asyncio.sleep(text.seconds)
    return text


ECHO = Endpoint("rpc.test.v1.echo", Text, echo)


async def drop_link(bus: NatsBus, proxy: NatsProxy) -> None:
    lost = bus.counts.get("lost_connections", 0)
    proxy.cut()
    await until(lambda: bus.counts.get("lost_connections", 0) > lost and bus.connected)


async def test_a_subject_that_is_no_text_does_not_deafen(nats_server: NatsServer, bus: NatsBus) -> None:
    """nats-py's reader ends, unseen, when it cannot decode a subject."""
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def listen(subject: str, _text: Text) -> None:
        await heard.put(subject)

    await bus.subscribe("test.>", Text, listen)
    with socket.create_connection(("127.0.0.1", nats_server.port)) as enemy:
        enemy.sendall(b'CONNECT {"verbose":false,"protocol":1}\r\nPUB test.\xff\xfe 1\r\n\x80\r\nPING\r\n')
        enemy.settimeout(5)
        while b"PONG" not in enemy.recv(4096):
            pass
    await bus.publish("test.after", Text())
    async with asyncio.timeout(5):
        assert [await heard.get(), await heard.get()] == ["test.\ufffd\ufffd", "test.after"]
    assert bus.counts["lost_connections"] == 0


async def test_a_call_does_not_outlast_the_connection(proxy: NatsProxy, behind: NatsBus, bus: NatsBus) -> None:
    started = asyncio.Event()

    async def slow(_subject: str, text: Text) -> Text:
        started.set()
        await asyncio.sleep(0.5)
        return text

    await bus.serve("test", "1.0.0", [Endpoint("rpc.test.v1.slow", Text, slow)])
    call = asyncio.create_task(behind.call("rpc.test.v1.slow", Text(), Text, timeout=60))
    await started.wait()
    start = time.monotonic()
    proxy.cut()
    with pytest.raises(Unavailable, match="may have been carried out"):
        await call
    assert time.monotonic() - start < 5
    await until(lambda: behind.connected)
    assert (await behind.call("rpc.test.v1.slow", Text(text="again"), Text)).text == "again"


async def test_a_service_goes_on_answering_after_a_restart(nats_server: NatsServer, bus: NatsBus) -> None:
    await bus.serve("test", "1.0.0", [ECHO])
    for _ in range(3):
        nats_server.restart()
        await until(lambda: not bus.connected, 5)
        assert (await bus.call("rpc.test.v1.echo", Text(text="x"), Text, timeout=10)).text == "x"


async def test_a_request_made_while_the_bus_is_away_waits_for_it(proxy: NatsProxy, behind: NatsBus) -> None:
    await behind.serve("test", "1.0.0", [ECHO])
    proxy.cut()
    await until(lambda: behind.counts["lost_connections"] == 1)
    assert (await behind.call("rpc.test.v1.echo", Text(text="x"), Text, timeout=10)).text == "x"


async def test_a_commit_that_nobody_confirms_is_of_unknown_outcome(
    proxy: NatsProxy, behind: NatsBus, bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "_COMMIT_TIMEOUT", 0.3)
    store = await behind.store("records")
    proxy.to_client = lambda _data: b""
    with pytest.raises(Unavailable, match="not confirmed"):
        await store.commit([Write("node.n1", b"x", 0), Write("head", b"1", 0)])
    entry = await (await bus.store("records")).get("head")
    assert entry is not None
    assert entry.value == b"1"


async def test_silence_is_noticed_and_nothing_is_lost(
    proxy: NatsProxy, behind: NatsBus, bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer may die without a word: only the missing heartbeat tells."""
    monkeypatch.setattr(pull, "_SILENCE", 0.5)
    monkeypatch.setattr(jetstream, "_TIMEOUT", 0.5)
    direct = await bus.store("records")
    async with (await behind.store("records")).watch() as entries, asyncio.timeout(20):
        assert await anext(entries) is None
        coming = asyncio.ensure_future(anext(entries))
        proxy.to_client = lambda _data: b""
        revision = await direct.put("node.n1", b"x")
        await asyncio.sleep(1.0)
        proxy.to_client = lambda data: data
        assert await coming == Entry("node.n1", b"x", revision)


async def test_a_bucket_that_was_made_anew_is_not_taken_for_the_old_one(nats_server: NatsServer, bus: NatsBus) -> None:
    store = await bus.store("records")
    for number in range(3):
        await store.put(f"node.n{number}", b"x")
    async with store.watch() as entries, asyncio.timeout(20):
        while await anext(entries) is not None:
            pass
        nats_server.stop()
        nats_server.wipe()
        nats_server.start()
        other = await NatsBus.connect([nats_server.url], name="other", timeout=10)
        await other.prepare()
        await other.close()
        with pytest.raises(BusError, match=r"KV_records was made anew|stream not found"):
            await anext(entries)


async def test_streams_are_prepared_by_many_at_once_and_updated(nats_server: NatsServer) -> None:
    buses = [await NatsBus.connect([nats_server.url], name=f"b{n}", timeout=10) for n in range(5)]
    await asyncio.gather(*(bus.prepare() for bus in buses))
    records = await jetstream.api(buses[0].connection, "STREAM.INFO.KV_records")
    assert records["config"]["max_msgs_per_subject"] == 8
    assert records["config"]["allow_atomic"] is True
    assert not records["config"].get("allow_direct")
    older = {**records["config"], "max_msgs_per_subject": 3, "description": "kept"}
    await jetstream.api(buses[0].connection, "STREAM.UPDATE.KV_records", older)
    await asyncio.gather(*(bus.prepare() for bus in buses))
    records = await jetstream.api(buses[0].connection, "STREAM.INFO.KV_records")
    assert (records["config"]["max_msgs_per_subject"], records["config"]["description"]) == (8, "kept")
    for bus in buses:
        await bus.close()


async def test_a_small_disk_gets_small_streams(tmp_path: Path) -> None:
    """The server sets a stream's `max_bytes` aside when it is made."""
    server = NatsServer(tmp_path / "small", limits="max_file_store: 300MB")
    server.start()
    try:
        for _ in range(2):
            bus = await NatsBus.connect([server.url], name="test", timeout=10)
            await bus.prepare()
            await bus.emit("evt.test.a.happened", Text(text="x"))
            await bus.enqueue("job.test.make", Text(text="x"), id="x")
            info = await jetstream.api(bus.connection, "STREAM.INFO.EVENTS")
            assert info["config"]["max_bytes"] == (2 << 30) // 16
            await bus.close()
    finally:
        server.kill()


async def test_no_consumers_are_left_behind(bus: NatsBus) -> None:
    store = await bus.store("records")
    await store.load()
    await store.put("node.n1", b"x")
    for _ in range(5):
        await store.load()
    count = None
    async with asyncio.timeout(5):
        while count != 0:
            info = await jetstream.api(bus.connection, "STREAM.INFO.KV_records")
            count = info["state"]["consumer_count"]


@pytest.mark.parametrize(
    "reply",
    ["", "_INBOX.x", "$JS.ACK.S.C.1.2", "$JS.ACK.S.C.a.b.c.d.e", "$JS.ACK.S.C.1.2.-.4.5", "$JS.ACK." + "." * 5],
)
def test_a_delivery_without_its_numbers_breaks_the_consumer_and_nothing_else(reply: str) -> None:
    with pytest.raises(pull.Broken):
        pull.stored(_message(reply))


@pytest.mark.parametrize("reply", ["$JS.ACK.S.C.1.22.333.4.5", "$JS.ACK.hub.hash.S.C.1.22.333.4.5.token"])
def test_both_forms_of_a_deliverys_numbers_are_read(reply: str) -> None:
    assert pull.stored(_message(reply)) == Stored(22, 333, 1, "s", b"x", {}, reply)


def _message(reply: str) -> Message:
    message = Message.__new__(Message)
    message.subject, message.reply, message.data, message.headers = "s", reply, b"x", None
    return message


async def test_links_are_dropped_and_mended_without_end(proxy: NatsProxy, behind: NatsBus, bus: NatsBus) -> None:
    """Every mend keeps each subscription, once."""
    heard: list[str] = []

    async def listen(_subject: str, text: Text) -> None:
        heard.append(text.text)

    await behind.subscribe("test.said", Text, listen)
    expected: list[str] = []
    for round_ in range(5):
        await drop_link(behind, proxy)
        await bus.publish("test.said", Text(text=str(round_)))
        expected.append(str(round_))
        await until(lambda: len(heard) == len(expected))
    assert heard == expected


async def test_connecting_is_told_in_the_log(nats_server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with await connect([nats_server.url], name="test", timeout=10):
            pass
    assert f"bus.connected server={nats_server.url}" in caplog.text


async def test_a_cancelled_flush_is_cancelled_and_leaves_the_link_whole(nats_server: NatsServer) -> None:
    async with await connect([nats_server.url], name="test", timeout=10) as connection:
        link = await connection.link()
        swallowed = 0
        for number in range(60):
            through = asyncio.Event()
            task = asyncio.create_task(_flush_thrice(link, through))
            for _ in range(number % 6 + 1):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            swallowed += through.is_set()
        await link.flush()
        assert swallowed == 0
        assert link.alive
        assert connection.counts["lost_connections"] == 0


async def _flush_thrice(link: Link, through: asyncio.Event) -> None:
    for _ in range(3):
        await link.flush()
    await asyncio.sleep(0.2)  # where a cancellation is felt that comes late, but not one that was swallowed
    through.set()
