"""What nodes tell, on its way to the events: for the bus in memory and the one over NATS."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from pydantic import BaseModel

from lab.nats_server import NatsServer
from shoal_bus import codec
from shoal_bus.api import Bus
from shoal_bus.connection import connect
from shoal_bus.nats import NatsBus
from shoal_model.subjects import Stage, boot_event, node_log, told

Clients = Callable[[], Awaitable[Bus]]
DEFLATED = {codec.CONTENT_ENCODING: "deflate"}
START = boot_event("n001", Stage.STAGE1_START)


class Event(BaseModel):
    number: int


async def test_what_a_node_tells_becomes_an_event_and_is_heard_as_one(clients: Clients) -> None:
    node, head = await clients(), await clients()
    heard: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async def hear(subject: str, event: Event) -> None:
        heard.put_nowait((subject, event.number))

    await head.subscribe("evt.boot.>", Event, hear)
    async with asyncio.timeout(10), head.events("evt.>", Event) as events:
        await node.publish(told(node_log("n001")), Event(number=1))
        await node.publish(told(START), Event(number=2))
        got = [(await anext(events))[1:] for _ in range(2)]
        await head.emit(START, Event(number=3))
        got.append((await anext(events))[1:])
        assert [await heard.get() for _ in range(2)] == [(START, 2), (START, 3)]
    assert [(subject, event.number) for subject, event in got] == [("evt.node.n001.log", 1), (START, 2), (START, 3)]
    assert heard.empty()


async def test_what_is_larger_than_a_node_says_things_is_not_kept(nats_server: NatsServer) -> None:
    async with await connect([nats_server.url], name="node", timeout=10) as node:
        head = await NatsBus.connect([nats_server.url], name="head", timeout=10)
        await head.prepare()
        async with asyncio.timeout(10), head.events("evt.>", Event) as events:
            await node.publish_raw(told(START), codec.pack({"number": 1, "more": bytes(300_000)}))
            await node.publish_raw(told(START), zlib.compress(codec.pack({"number": 2})), DEFLATED)
            await node.publish(told(START), {"number": 3, "more": bytes(250_000)})
            assert (await anext(events))[2].number == 3
        assert head.counts["rejected"] == 1
        await head.close()
