"""Requests, messages: what `shoal_bus.api` promises, for the bus in memory and the one over NATS."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from pydantic import BaseModel

from shoal_bus.api import Bus, Endpoint
from shoal_bus.errors import BusError, Conflict, Denied, Internal, Invalid, NotFound, Unavailable

Clients = Callable[[], Awaitable[Bus]]


class Ask(BaseModel):
    text: str = ""
    seconds: float = 0.0


class Told(BaseModel):
    text: str
    subject: str = ""


class Other(BaseModel):
    number: int


async def echo(subject: str, ask: Ask) -> Told:
    await asyncio.sleep(ask.seconds)
    return Told(text=ask.text, subject=subject)


def endpoint(handler: Callable[[str, Ask], Awaitable[BaseModel]] = echo, subject: str = "rpc.test.v1.echo") -> Endpoint:
    return Endpoint(subject, Ask, handler)


async def test_a_request_is_answered(clients: Clients) -> None:
    server, client = await clients(), await clients()
    await server.serve("test", "1.0.0", [endpoint()])
    assert await client.call("rpc.test.v1.echo", Ask(text="hällo"), Told) == Told(
        text="hällo", subject="rpc.test.v1.echo"
    )


async def test_an_endpoint_for_every_node_learns_which_one_asked(clients: Clients) -> None:
    bus = await clients()
    await bus.serve("test", "1.0.0", [endpoint(subject="rpc.test.v1.boot.*")])
    told = await bus.call("rpc.test.v1.boot.n007", Ask(), Told)
    assert told.subject == "rpc.test.v1.boot.n007"
    with pytest.raises(Unavailable, match="nobody answers"):
        await bus.call("rpc.test.v1.boot.n007.more", Ask(), Told)


@pytest.mark.parametrize("kind", [Invalid, Denied, NotFound, Conflict, Unavailable, Internal])
async def test_an_error_for_the_caller_reaches_it_whole(clients: Clients, kind: type[BusError]) -> None:
    text = "node 'n1' is gone:\n  first line\n  zweite Zeile, äöü"

    async def fail(_subject: str, _ask: Ask) -> Told:
        raise kind(text)

    bus = await clients()
    await bus.serve("test", "1.0.0", [endpoint(fail)])
    with pytest.raises(BusError) as caught:
        await bus.call("rpc.test.v1.echo", Ask(), Told)
    assert type(caught.value) is kind
    assert str(caught.value) == text


async def test_what_broke_inside_stays_inside(clients: Clients, caplog: pytest.LogCaptureFixture) -> None:
    async def crash(_subject: str, _ask: Ask) -> Told:
        raise ValueError("the secret path /etc/shoal/key")

    bus = await clients()
    await bus.serve("test", "1.0.0", [endpoint(crash)])
    with pytest.raises(Internal, match=r"^internal error [0-9a-f]{8}$") as caught:
        await bus.call("rpc.test.v1.echo", Ask(), Told)
    assert str(caught.value) in caplog.text
    assert "the secret path" in caplog.text
    assert bus.counts["handler_errors"] == 1


async def test_nobody_listening_is_known_at_once(clients: Clients) -> None:
    bus = await clients()
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"nobody answers rpc\.test\.v1\.echo"):
        await bus.call("rpc.test.v1.echo", Ask(), Told, timeout=5)
    assert time.monotonic() - start < 2


async def test_no_answer_in_time_is_unavailable(clients: Clients) -> None:
    bus = await clients()
    await bus.serve("test", "1.0.0", [endpoint()])
    with pytest.raises(Unavailable, match=r"did not answer within 0\.1 s"):
        await bus.call("rpc.test.v1.echo", Ask(seconds=0.5), Told, timeout=0.1)


async def test_a_request_that_does_not_fit_names_the_field(clients: Clients) -> None:
    bus = await clients()
    await bus.serve("test", "1.0.0", [Endpoint("rpc.test.v1.other", Other, lambda s, _: echo(s, Ask()))])
    with pytest.raises(Invalid, match="Other: number: Field required"):
        await bus.call("rpc.test.v1.other", Ask(), Told)
    with pytest.raises(Invalid, match="Other: number"):
        await bus.call("rpc.test.v1.other", Other(number=1), Other)


async def test_many_requests_are_worked_on_at_once(clients: Clients) -> None:
    """Guard P7: nats-py alone runs one handler after the other."""
    bus = await clients()
    await bus.serve("test", "1.0.0", [endpoint()])
    start = time.monotonic()
    await asyncio.gather(*(bus.call("rpc.test.v1.echo", Ask(seconds=0.1), Told) for _ in range(20)))
    assert time.monotonic() - start < 1.0


async def test_a_queue_group_answers_each_request_once(clients: Clients) -> None:
    handled: Counter[str] = Counter()

    def counting(name: str) -> Endpoint:
        async def handle(subject: str, ask: Ask) -> Told:
            handled[ask.text] += 1
            return Told(text=name, subject=subject)

        return endpoint(handle)

    first, second, caller = await clients(), await clients(), await clients()
    await first.serve("test", "1.0.0", [counting("first")])
    await second.serve("test", "1.0.0", [counting("second")])
    answers = [await caller.call("rpc.test.v1.echo", Ask(text=str(n)), Told) for n in range(60)]
    assert {answer.text for answer in answers} == {"first", "second"}
    assert handled == {str(n): 1 for n in range(60)}


async def test_large_bodies_pass_both_ways(clients: Clients) -> None:
    bus = await clients()
    await bus.serve("test", "1.0.0", [endpoint()])
    text = "".join(f"node-{n:06} 10.0.{n % 256}.1 " for n in range(120_000))
    assert len(text) > 2 << 20
    assert (await bus.call("rpc.test.v1.echo", Ask(text=text), Told)).text == text


async def test_stopping_finishes_the_requests_that_run(clients: Clients) -> None:
    started = asyncio.Event()

    async def slow(subject: str, ask: Ask) -> Told:
        started.set()
        await asyncio.sleep(0.2)
        return Told(text=ask.text, subject=subject)

    server, client = await clients(), await clients()
    served = await server.serve("test", "1.0.0", [endpoint(slow)])
    running = asyncio.create_task(client.call("rpc.test.v1.echo", Ask(text="late"), Told))
    await started.wait()
    await served.stop()
    assert (await running).text == "late"
    with pytest.raises(Unavailable):
        await client.call("rpc.test.v1.echo", Ask(), Told, timeout=1)


async def test_no_request_is_lost_when_one_of_two_stops(clients: Clients) -> None:
    staying, caller = await clients(), await clients()
    await staying.serve("test", "1.0.0", [endpoint()])
    going_on, answered = True, 0

    async def ask() -> None:
        nonlocal answered
        while going_on:
            await caller.call("rpc.test.v1.echo", Ask(text="x"), Told, timeout=2)
            answered += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(ask())
        for _ in range(20):
            leaving = await clients()
            served = await leaving.serve("test", "1.0.0", [endpoint()])
            await asyncio.sleep(0.01)
            await served.stop()
        going_on = False
    assert answered > 100


async def test_a_drained_bus_still_asks(clients: Clients) -> None:
    server, draining = await clients(), await clients()
    await server.serve("test", "1.0.0", [endpoint()])
    await draining.serve("other", "1.0.0", [endpoint(subject="rpc.other.v1.echo")])
    await draining.drain()
    assert (await draining.call("rpc.test.v1.echo", Ask(text="x"), Told)).text == "x"
    with pytest.raises(Unavailable):
        await server.call("rpc.other.v1.echo", Ask(), Told, timeout=1)


async def test_a_closed_bus_says_so(clients: Clients) -> None:
    bus = await clients()
    await bus.close()
    assert not bus.connected
    with pytest.raises(Unavailable):
        await bus.call("rpc.test.v1.echo", Ask(), Told, timeout=1)


async def test_a_message_goes_to_every_listener_and_to_one_of_each_group(clients: Clients) -> None:
    publisher, hearers = await clients(), [await clients() for _ in range(4)]
    heard: Counter[str] = Counter()
    all_heard = asyncio.Event()

    def listener(name: str) -> Callable[[str, Ask], Awaitable[None]]:
        async def listen(subject: str, ask: Ask) -> None:
            heard[f"{name} {subject} {ask.text}"] += 1
            if sum(heard.values()) == 3:
                all_heard.set()

        return listen

    for number, (bus, queue) in enumerate(zip(hearers, (None, None, "group", "group"), strict=True)):
        await bus.subscribe("test.*.said", Ask, listener(queue or str(number)), queue=queue)
    await publisher.publish("test.n1.said", Ask(text="hi"))
    async with asyncio.timeout(5):
        await all_heard.wait()
    assert heard == {"0 test.n1.said hi": 1, "1 test.n1.said hi": 1, "group test.n1.said hi": 1}


async def test_a_listener_survives_what_does_not_fit_and_its_own_errors(
    clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await clients()
    good: asyncio.Queue[int] = asyncio.Queue()

    async def listen(_subject: str, other: Other) -> None:
        if other.number < 0:
            raise ValueError("negative")
        await good.put(other.number)

    await bus.subscribe("test.said", Other, listen)
    await bus.publish("test.said", Ask(text="no number"))
    await bus.publish("test.said", Other(number=-1))
    await bus.publish("test.said", Other(number=7))
    async with asyncio.timeout(5):
        assert await good.get() == 7
    assert bus.counts["rejected"] == 1
    assert bus.counts["handler_errors"] == 1
    with caplog.at_level(logging.WARNING):
        assert "Other: number: Field required" in caplog.text
        assert "ValueError: negative" in caplog.text


async def test_a_stopped_subscription_hears_nothing_more(clients: Clients) -> None:
    bus = await clients()
    heard: list[str] = []
    ended: list[str] = []

    async def listen(_subject: str, ask: Ask) -> None:
        heard.append(ask.text)
        await asyncio.sleep(ask.seconds)
        ended.append(ask.text)

    async def mark(_subject: str, _ask: Ask) -> None:
        marked.set()

    marked = asyncio.Event()
    subscription = await bus.subscribe("test.said", Ask, listen)
    await bus.subscribe("test.said", Ask, mark)
    await bus.publish("test.said", Ask(text="first", seconds=0.1))
    async with asyncio.timeout(5):
        await marked.wait()
    await subscription.stop()
    assert ended == ["first"]
    marked.clear()
    await bus.publish("test.said", Ask(text="second"))
    async with asyncio.timeout(5):
        await marked.wait()
    assert heard == ["first"]
