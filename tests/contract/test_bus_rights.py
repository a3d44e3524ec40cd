"""What each method of the bus asks JetStream for: with these rights it works, and beyond them it does not."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel

from lab.nats_server import NatsServer
from shoal_bus import jetstream
from shoal_bus.connection import Credentials
from shoal_bus.errors import NotPermitted
from shoal_bus.nats import NatsBus


class Text(BaseModel):
    text: str = ""


def reading(stream: str, pattern: str) -> list[str]:
    return [
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.*.{pattern}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*",
        f"$JS.API.CONSUMER.DELETE.{stream}.*",
    ]


@asynccontextmanager
async def limited(directory: Path, publish: Sequence[str]) -> AsyncIterator[tuple[NatsBus, NatsBus]]:
    """Two on one server: `all` may do everything, and has prepared it; `one` may publish this alone."""
    rights = json.dumps({"publish": list(publish), "subscribe": ["_INBOX.one.>"]})
    users = f"{{user: all, password: x}}, {{user: one, password: x, permissions: {rights}}}"
    server = NatsServer(directory / "limited", config=f"authorization {{ users: [{users}] }}")
    server.start()
    everything = Credentials(user="all", password="x")
    one = Credentials(user="one", password="x", inbox_prefix="_INBOX.one")
    full = await NatsBus.connect([server.url], name="all", credentials=everything, timeout=10)
    try:
        await full.prepare()
        bus = await NatsBus.connect([server.url], name="one", credentials=one, timeout=10)
        try:
            yield full, bus
        finally:
            await bus.close()
    finally:
        await full.close()
        server.kill()


async def test_reading_events(tmp_path: Path) -> None:
    async with limited(tmp_path, reading("EVENTS", "evt.test.>")) as (full, one):
        await full.emit("evt.test.a.happened", Text(text="1"))
        async with one.events("evt.test.>", Text) as events, asyncio.timeout(10):
            await full.emit("evt.test.a.happened", Text(text="2"))
            assert (await anext(events))[2].text == "2"
        assert [event.text for _, _, event in await one.latest("evt.test.>", Text)] == ["2"]
        with pytest.raises(NotPermitted):
            await one.latest("evt.>", Text)
        assert one.counts["denied"] == 1


async def test_a_consumer_is_what_its_subject_says(tmp_path: Path) -> None:
    """Else who may read one kind of event could read all."""
    async with limited(tmp_path, reading("EVENTS", "evt.test.>")) as (_, one):
        for lie in ({"filter_subject": "evt.>"}, {"filter_subjects": ["evt.>"]}, {"name": "other"}):
            config = {"name": "mine", "ack_policy": "none", **lie}
            request = {"stream_name": "EVENTS", "config": config}
            with pytest.raises(jetstream.JetStreamError):
                await jetstream.api(one.connection, "CONSUMER.CREATE.EVENTS.mine.evt.test.>", request)


async def test_reading_a_bucket(tmp_path: Path) -> None:
    async with limited(tmp_path, reading("KV_records", "$KV.records.>")) as (full, one):
        store = await full.store("records")
        await store.put("a", b"1")
        found = await (await one.store("records")).load()
        assert [(entry.key, entry.value) for entry in found] == [("a", b"1")]
        with pytest.raises(NotPermitted):
            await one.store("state")


async def test_getting_and_putting_a_key(tmp_path: Path) -> None:
    rights = ["$JS.API.STREAM.INFO.KV_state", "$JS.API.STREAM.MSG.GET.KV_state", "$KV.state.mine.>"]
    async with limited(tmp_path, rights) as (_, one):
        store = await one.store("state")
        await store.put("mine.a", b"1")
        entry = await store.get("mine.a")
        assert entry is not None
        assert entry.value == b"1"
        with pytest.raises(NotPermitted):
            await store.put("theirs.a", b"1")


async def test_working(tmp_path: Path) -> None:
    rights = [
        "$JS.API.CONSUMER.CREATE.JOBS.job_image_build.job.image.build.*",
        "$JS.API.CONSUMER.MSG.NEXT.JOBS.job_image_build",
        "$JS.ACK.JOBS.job_image_build.>",
        "job.image.build.>",
    ]
    async with limited(tmp_path, rights) as (_, one):
        await one.enqueue("job.image.build", Text(text="1"), id="a")
        async with one.work("job.image.build", Text) as jobs, asyncio.timeout(10):
            job = await anext(jobs)
            assert job.message.text == "1"
            await job.still_working()
            await job.done()
        assert one.counts["denied"] == 0


async def test_a_reader_that_may_not_fetch_says_so(tmp_path: Path) -> None:
    """It could wait for ever: whoever publishes is not told that it may not."""
    events, jobs = reading("EVENTS", "evt.test.>"), ["$JS.API.CONSUMER.CREATE.JOBS.job_image_build.job.image.build.*"]
    rights = [right for right in (*events, *jobs) if "MSG.NEXT" not in right]
    async with limited(tmp_path, rights) as (full, one), asyncio.timeout(10):
        await full.emit("evt.test.a.happened", Text())
        with pytest.raises(NotPermitted, match=r"send to \$js\.api\.consumer\.msg\.next\.events"):
            await one.latest("evt.test.>", Text)
        async with one.work("job.image.build", Text) as work:
            with pytest.raises(NotPermitted, match=r"send to \$js\.api\.consumer\.msg\.next\.jobs"):
                await anext(work)
