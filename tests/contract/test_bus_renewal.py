"""Links that are renewed before their credentials expire, under traffic: nothing is lost, nothing is handled twice."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from lab.nats_proxy import NatsProxy, until
from lab.nats_server import NatsServer
from shoal_bus import links
from shoal_bus.api import Endpoint, Write
from shoal_bus.connection import Credentials
from shoal_bus.errors import Unavailable
from shoal_bus.nats import NatsBus

LIFETIME = 2.0


class Number(BaseModel):
    number: int = 0
    seconds: float = 0.0


class Renewing:
    """Credentials that are good for a while, and how often they were asked for."""

    def __init__(self, lifetime: float = LIFETIME) -> None:
        self.asked = 0
        self.lifetime = lifetime
        self.broken = False

    def __call__(self) -> Credentials:
        self.asked += 1
        if self.broken:
            raise OSError("there is no key now")
        return Credentials(lifetime=self.lifetime)


@asynccontextmanager
async def renewing(server: NatsServer | NatsProxy, credentials: Callable[[], Credentials]) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([server.url], name="renewing", credentials=credentials, timeout=10)
    try:
        yield bus
    finally:
        await bus.close()


async def steadily(work: Callable[[int], Awaitable[object]], until_: Callable[[], bool]) -> int:
    """Do something again and again; gives how often it was done."""
    number = 0
    while not until_():
        await work(number)
        number += 1
        await asyncio.sleep(random.uniform(0, 0.004))
    return number


class Heard:
    """How often each number came, by way."""

    def __init__(self, bus: NatsBus) -> None:
        self._bus = bus
        self.times: dict[str, Counter[int]] = defaultdict(Counter)

    async def answer(self, _subject: str, request: Number) -> Number:
        self.times["asked"][request.number] += 1
        await asyncio.sleep(request.seconds)
        return request

    def by(self, way: str) -> Callable[[str, Number], Awaitable[None]]:
        async def hear(_subject: str, message: Number) -> None:
            self.times[way][message.number] += 1

        return hear

    async def events(self) -> None:
        async with self._bus.events("evt.test.>", Number, since=0) as stored:
            async for _, _, message in stored:
                self.times["events"][message.number] += 1

    async def jobs(self) -> None:
        async with self._bus.work("job.test.make", Number) as work:
            async for job in work:
                assert job.attempt == 1
                self.times["jobs"][job.message.number] += 1
                await job.done()

    async def keys(self) -> None:
        async with (await self._bus.store("state")).watch() as entries:
            async for entry in entries:
                if entry is not None:
                    self.times["keys"][int(entry.key)] += 1


async def test_three_renewals_under_traffic_lose_nothing(proxy: NatsProxy, bus: NatsBus) -> None:
    credentials = Renewing()
    proxy.lifetime = credentials.lifetime
    async with renewing(proxy, credentials) as renewed:
        heard = Heard(renewed)
        await renewed.serve("test", "1", [Endpoint("rpc.test.v1.ask", Number, heard.answer)])
        await renewed.subscribe("test.queue", Number, heard.by("queue"), queue="test")
        await renewed.subscribe("test.all", Number, heard.by("all"))
        records, state = await renewed.store("records"), await bus.store("state")

        async def ask(number: int) -> None:
            """Others of us, and we of ourselves over the link that is renewed."""
            for asker, request in ((bus, Number(number=2 * number)), (renewed, Number(number=2 * number + 1))):
                request.seconds = random.choice((0.0, 0.05))
                assert await asker.call("rpc.test.v1.ask", request, Number) == request

        works: dict[str, Callable[[int], Awaitable[object]]] = {
            "asked": ask,
            "queue": lambda number: bus.publish("test.queue", Number(number=number)),
            "all": lambda number: bus.publish("test.all", Number(number=number)),
            "events": lambda number: renewed.emit("evt.test.a.happened", Number(number=number)),
            "jobs": lambda number: bus.enqueue("job.test.make", Number(number=number), id=str(number)),
            "keys": lambda number: state.put(str(number), b"x"),
            "commits": lambda number: records.commit([Write(f"n{part}", b"x") for part in range(20)]),
        }
        reading = [asyncio.create_task(one) for one in (heard.events(), heard.jobs(), heard.keys())]
        doing = (steadily(work, lambda: credentials.asked > 3) for work in works.values())
        done = dict(zip(works, await asyncio.gather(*doing), strict=True))
        commits = done.pop("commits")
        done["asked"] *= 2
        await until(lambda: all(len(heard.times[way]) >= times for way, times in done.items()))
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for way, times in done.items():
            assert set(heard.times[way]) == set(range(times)), way
            assert set(heard.times[way].values()) <= ({1, 2} if way == "all" else {1}), way
        assert min(*done.values(), commits) > 50
        assert set(renewed.counts) == {"read_again"}
        assert proxy.expired == 0


async def test_a_request_outlives_the_renewal_of_either_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permission to answer is that of the connection which the question came over."""
    monkeypatch.setattr(links, "_RENEWED_AT", (0.04, 0.05))
    rights = '{publish: ["rpc.>"], subscribe: [">"], allow_responses: {max: 1, expires: "10m"}}'
    config = f"authorization {{ users: [{{user: one, password: x, permissions: {rights}}}] }}"
    server = NatsServer(tmp_path / "nats", config=config)
    server.start()
    credentials = Renewing(10.0)
    steady = Credentials(user="one", password="x")
    asker = None
    try:
        async with renewing(server, lambda: replace(credentials(), user="one", password="x")) as renewed:
            asker = await NatsBus.connect([server.url], name="steady", credentials=steady, timeout=10)

            async def slow(_subject: str, request: Number) -> Number:
                before = credentials.asked
                await asyncio.sleep(request.seconds)
                return Number(number=credentials.asked - before)

            await renewed.serve("test", "1", [Endpoint("rpc.test.v1.slow", Number, slow)])
            for one in (asker, renewed):
                reply = await one.call("rpc.test.v1.slow", Number(seconds=1.2), Number)
                assert reply.number >= 2
            assert set(renewed.counts) == set()
    finally:
        if asker is not None:
            await asker.close()
        server.kill()


async def test_a_renewal_that_fails_is_tried_again(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_LONGEST_PAUSE", 0.05)
    credentials = Renewing(60.0)
    monkeypatch.setattr(links, "_RENEWED_AT", (0.005, 0.01))
    async with renewing(nats_server, credentials) as renewed:
        await renewed.serve("test", "1", [Endpoint("rpc.test.v1.echo", Number, _same)])
        before = await renewed.connection.link()
        credentials.broken = True
        await until(lambda: credentials.asked > 5)
        assert await renewed.connection.link() is before
        assert (await renewed.call("rpc.test.v1.echo", Number(number=1), Number)).number == 1
        credentials.broken = False
        await before.lost()
        assert (await renewed.call("rpc.test.v1.echo", Number(number=2), Number)).number == 2
        assert renewed.counts.get("lost_connections", 0) == 0


async def _same(_subject: str, number: Number) -> Number:
    return number


async def test_a_link_that_is_lost_while_it_is_renewed(proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(links, "_RENEWED_AT", (0.001, 0.002))
    credentials = Renewing(60.0)
    bus = await NatsBus.connect([proxy.url], name="test", credentials=credentials, timeout=10)
    credentials.broken = True
    await bus.serve("test", "1", [Endpoint("rpc.test.v1.echo", Number, _same)])
    await until(lambda: credentials.asked > 3)
    proxy.cut()
    await until(lambda: not bus.connected)
    credentials.broken = False
    for number in range(20):
        assert (await bus.call("rpc.test.v1.echo", Number(number=number), Number)).number == number
    assert bus.counts["lost_connections"] == 1
    await bus.close()


async def test_a_bus_that_is_being_renewed_closes(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in a renewal: what it handles is finished, and no connection is left."""
    monkeypatch.setattr(links, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(links, "_RENEWED_AT", (0.0005, 0.002))
    for number in range(20):
        bus = await NatsBus.connect([nats_server.url], name="test", credentials=Renewing(10.0), timeout=10)
        await bus.serve("test", "1", [Endpoint("rpc.test.v1.echo", Number, _same)])
        await asyncio.sleep(number / 400)
        async with asyncio.timeout(8):
            await bus.close()
        with pytest.raises(Unavailable):
            await bus.call("rpc.test.v1.echo", Number(), Number)


async def test_what_stops_meanwhile_stays_stopped(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(links, "_RENEWED_AT", (0.0005, 0.001))
    handled: list[int] = []
    credentials = Renewing(10.0)

    async def hear(_subject: str, number: Number) -> None:
        handled.append(number.number)

    async with renewing(nats_server, credentials) as bus:
        for round_ in range(50):
            listening = await bus.subscribe("test.said", Number, hear, queue="one")
            await bus.publish("test.said", Number(number=round_))
            await bus.connection.flush()
            await listening.stop()
            await bus.publish("test.said", Number(number=-1))
            await bus.connection.flush()
        assert credentials.asked > 3
    assert handled == list(range(50))


async def test_a_server_that_ends_it_early_is_a_lost_link(proxy: NatsProxy) -> None:
    """As when the clocks differ, or the callout gave less than was said."""
    proxy.lifetime = 0.3
    credentials = Renewing(3600.0)
    async with renewing(proxy, credentials) as bus:
        await bus.serve("test", "1", [Endpoint("rpc.test.v1.echo", Number, _same)])
        await until(lambda: credentials.asked > 3)
        proxy.lifetime = None
        await until(lambda: bus.counts["lost_connections"] == proxy.expired and bus.connected)
        assert (await bus.call("rpc.test.v1.echo", Number(number=3), Number)).number == 3
