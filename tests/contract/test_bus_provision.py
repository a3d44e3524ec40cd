"""Who creates streams and buckets, and who waits for them."""

import asyncio

import pytest
from pydantic import BaseModel

from lab.nats_proxy import until
from lab.nats_server import NatsServer
from shoal_bus import jetstream, provision
from shoal_bus.nats import NatsBus

STREAMS = ["EVENTS", "JOBS", "KV_identity", "KV_records", "KV_secrets", "KV_state", "TOLD"]


class Text(BaseModel):
    text: str = ""


async def there(bus: NatsBus) -> list[str]:
    return sorted((await jetstream.api(bus.connection, "STREAM.NAMES")).get("streams") or [])


async def test_one_creates_and_the_others_wait(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(provision, "_AWAIT_LONGEST_PAUSE", 0.1)
    creator = await NatsBus.connect([nats_server.url], name="registry", timeout=10)
    other = await NatsBus.connect([nats_server.url], name="other", timeout=10, creates=False)

    async def follow() -> str:
        async with other.events("evt.test.>", Text, since=0) as events:
            return (await anext(events))[2].text

    async def work() -> str:
        async with other.work("job.test.make", Text) as jobs:
            job = await anext(jobs)
            await job.done()
            return job.message.text

    async def keep() -> int:
        return await (await other.store("identity")).put("node.n1", b"x")

    tasks = [asyncio.create_task(one) for one in (follow(), work(), keep(), other.prepare())]
    await until(lambda: all(f"bus.awaits stream={name}" in caplog.text for name in ("EVENTS", "JOBS", "KV_identity")))
    assert await there(creator) == []
    await creator.prepare()
    assert await there(creator) == STREAMS
    await creator.emit("evt.test.a.happened", Text(text="event"))
    await creator.enqueue("job.test.make", Text(text="job"), id="a")
    async with asyncio.timeout(10):
        assert await asyncio.gather(*tasks) == ["event", "job", 1, None]
    for bus in (creator, other):
        await bus.close()


async def test_who_does_not_create_does_not_update_either(nats_server: NatsServer, bus: NatsBus) -> None:
    config = (await jetstream.api(bus.connection, "STREAM.INFO.KV_records"))["config"]
    await jetstream.api(bus.connection, "STREAM.UPDATE.KV_records", {**config, "max_msgs_per_subject": 3})
    other = await NatsBus.connect([nats_server.url], name="other", timeout=10, creates=False)
    await other.prepare()
    await other.store("records")
    info = await jetstream.api(bus.connection, "STREAM.INFO.KV_records")
    assert info["config"]["max_msgs_per_subject"] == 3
    await other.close()
