"""Events and jobs: what `shoal_bus.api` promises, for the bus in memory and the one over NATS."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from pydantic import BaseModel

from shoal_bus import streams
from shoal_bus.api import Bus
from shoal_bus.errors import Invalid, Unavailable

Clients = Callable[[], Awaitable[Bus]]


class Event(BaseModel):
    number: int


class Strange(BaseModel):
    name: str


class Work(BaseModel):
    name: str


async def test_events_are_kept_and_read_in_order(clients: Clients) -> None:
    bus = await clients()
    for number in range(5):
        await bus.emit(f"evt.test.n{number}.happened", Event(number=number))
    async with bus.events("evt.test.*.happened", Event, since=0) as events, asyncio.timeout(5):
        got = [await anext(events) for _ in range(5)]
    assert [event.number for _, _, event in got] == [0, 1, 2, 3, 4]
    assert [subject for _, subject, _ in got][3] == "evt.test.n3.happened"
    sequences = [sequence for sequence, _, _ in got]
    assert sequences == sorted(set(sequences))
    async with bus.events("evt.test.>", Event, since=sequences[2]) as events, asyncio.timeout(5):
        assert (await anext(events))[2].number == 3


async def test_the_latest_of_each_subject_and_then_no_more(clients: Clients) -> None:
    bus = await clients()
    assert list(await bus.latest("evt.test.>", Event)) == []
    for number, name in enumerate(("a", "b", "a", "c")):
        await bus.emit(f"evt.test.{name}.happened", Event(number=number))
    await bus.emit("evt.other.a.happened", Event(number=9))
    await bus.emit("evt.test.b.happened", Strange(name="x"))
    found = await bus.latest("evt.test.*.happened", Event)
    assert [(subject, event.number) for _, subject, event in found] == [
        ("evt.test.a.happened", 2),
        ("evt.test.c.happened", 3),
    ]
    assert [sequence for sequence, _, _ in found] == [3, 4]
    await bus.close()
    with pytest.raises(Unavailable):
        await bus.latest("evt.test.>", Event, timeout=0.2)


async def test_new_events_alone(clients: Clients) -> None:
    bus = await clients()
    await bus.emit("evt.test.a.happened", Event(number=1))
    async with bus.events("evt.test.>", Event) as events, asyncio.timeout(5):
        await bus.emit("evt.test.a.happened", Event(number=2))
        assert (await anext(events))[2].number == 2


async def test_other_subjects_and_what_does_not_fit_are_passed_over(clients: Clients) -> None:
    bus = await clients()
    await bus.emit("evt.other.a.happened", Event(number=1))
    await bus.emit("evt.test.a.happened", Strange(name="x"))
    await bus.emit("evt.test.a.happened", Event(number=3))
    async with bus.events("evt.test.>", Event, since=0) as events, asyncio.timeout(5):
        sequence, _, event = await anext(events)
    assert event.number == 3
    assert sequence == 3
    assert bus.counts["rejected"] == 1


async def test_the_same_event_id_is_stored_once(clients: Clients) -> None:
    bus = await clients()
    await bus.emit("evt.test.a.happened", Event(number=1), id="one")
    await bus.emit("evt.test.a.happened", Event(number=2), id="one")
    await bus.emit("evt.test.a.happened", Event(number=3), id="two")
    async with bus.events("evt.test.>", Event, since=0) as events, asyncio.timeout(5):
        assert [(await anext(events))[2].number for _ in range(2)] == [1, 3]


async def test_events_are_heard_by_listeners_too_and_published_ones_are_kept(clients: Clients) -> None:
    bus = await clients()
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def listen(_subject: str, event: Event) -> None:
        await heard.put(event.number)

    await bus.subscribe("evt.test.*.happened", Event, listen)
    async with bus.events("evt.test.>", Event, since=0) as events, asyncio.timeout(5):
        await bus.emit("evt.test.a.happened", Event(number=1))
        await bus.publish("evt.test.a.happened", Event(number=2))
        assert [await heard.get(), await heard.get()] == [1, 2]
        assert [(await anext(events))[2].number for _ in range(2)] == [1, 2]


async def test_reading_from_behind_the_end_begins_anew(clients: Clients) -> None:
    """A position that outlived its stream must not make the reader deaf."""
    bus = await clients()
    await bus.emit("evt.test.a.happened", Event(number=1))
    async with bus.events("evt.test.>", Event, since=1000) as events, asyncio.timeout(5):
        assert (await anext(events))[2].number == 1


async def test_a_job_is_done_once(clients: Clients) -> None:
    producer, worker = await clients(), await clients()
    await producer.enqueue("job.test.make", Work(name="a"), id="id-1")
    await producer.enqueue("job.test.make", Work(name="ignored"), id="id-1")
    async with worker.work("job.test.>", Work) as jobs, asyncio.timeout(10):
        job = await anext(jobs)
        assert (job.subject, job.message, job.id, job.attempt) == ("job.test.make", Work(name="a"), "id-1", 1)
        await producer.enqueue("job.test.make", Work(name="ignored"), id="id-1")
        await job.still_working()
        await job.done()
        await producer.enqueue("job.test.make", Work(name="b"), id="id-2")
        job = await anext(jobs)
        assert job.message.name == "b"
        await job.done()


async def test_a_done_job_may_be_wanted_again(clients: Clients) -> None:
    bus = await clients()
    async with bus.work("job.test.make", Work) as jobs, asyncio.timeout(10):
        for name in ("first", "second"):
            await bus.enqueue("job.test.make", Work(name=name), id="same")
            job = await anext(jobs)
            assert job.message.name == name
            await job.done()


async def test_a_failed_job_comes_back_and_others_are_not_held_up(clients: Clients) -> None:
    bus = await clients()
    await bus.enqueue("job.test.make", Work(name="failing"), id="a")
    await bus.enqueue("job.test.make", Work(name="fine"), id="b")
    async with bus.work("job.test.>", Work) as jobs, asyncio.timeout(10):
        job = await anext(jobs)
        assert job.message.name == "failing"
        await job.again(0.3)
        job = await anext(jobs)
        assert job.message.name == "fine"
        await job.done()
        job = await anext(jobs)
        assert (job.message.name, job.attempt) == ("failing", 2)
        await job.done()


async def test_two_workers_share_the_work(clients: Clients) -> None:
    producer, workers = await clients(), [await clients(), await clients()]
    done: list[str] = []
    all_done = asyncio.Event()

    async def take(bus: Bus) -> None:
        async with bus.work("job.test.>", Work) as jobs:
            async for job in jobs:
                done.append(job.message.name)
                await asyncio.sleep(0.01)
                await job.done()
                if len(done) == 20:
                    all_done.set()

    tasks = [asyncio.create_task(take(bus)) for bus in workers]
    for number in range(20):
        await producer.enqueue("job.test.make", Work(name=str(number)), id=f"id-{number}")
    async with asyncio.timeout(10):
        await all_done.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(done, key=int) == [str(number) for number in range(20)]


async def test_a_job_whose_worker_went_silent_goes_to_another(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "JOB_SILENCE", 0.5)
    producer, dying, living = await clients(), await clients(), await clients()
    await producer.enqueue("job.test.make", Work(name="a"), id="id")
    async with asyncio.timeout(10):
        async with dying.work("job.test.>", Work) as jobs:
            assert (await anext(jobs)).attempt == 1
        async with living.work("job.test.>", Work) as jobs:
            job = await anext(jobs)
            assert (job.message.name, job.attempt) == ("a", 2)
            await job.done()


async def test_a_job_on_which_its_workers_died_comes_to_be_told_of_but_not_for_ever(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"JOB_SILENCE": 0.3, "JOB_ATTEMPTS": 2, "JOB_DELIVERIES": 3}.items():
        monkeypatch.setattr(streams, name, value)
    bus = await clients()
    await bus.enqueue("job.test.make", Work(name="deadly"), id="id")
    async with asyncio.timeout(20):
        for attempt in (1, 2, 3):
            async with bus.work("job.test.>", Work) as jobs:
                job = await anext(jobs)
                assert (job.message.name, job.attempt) == ("deadly", attempt)
        async with bus.work("job.test.>", Work) as jobs:
            following = asyncio.ensure_future(anext(jobs))
            while bus.counts["jobs_given_up"] == 0:  # noqa: ASYNC110 - nothing tells us when it is
                await asyncio.sleep(0.02)
            await bus.enqueue("job.test.make", Work(name="next"), id="id")
            job = await following
            assert (job.message.name, job.attempt) == ("next", 1)
            await job.done()


async def test_a_job_is_given_up_in_the_end_and_may_be_put_again(clients: Clients) -> None:
    bus = await clients()
    await bus.enqueue("job.test.make", Work(name="hopeless"), id="id")
    async with bus.work("job.test.>", Work) as jobs, asyncio.timeout(10):
        for attempt in range(1, streams.JOB_ATTEMPTS + 1):
            job = await anext(jobs)
            assert job.attempt == attempt
            await job.again(0)
        assert bus.counts["jobs_given_up"] == 1
        await bus.enqueue("job.test.make", Work(name="new"), id="id")
        job = await anext(jobs)
        assert (job.message.name, job.attempt) == ("new", 1)
        await job.done()


async def test_a_job_that_does_not_fit_is_taken_out(clients: Clients) -> None:
    bus = await clients()
    await bus.enqueue("job.test.make", Event(number=1), id="bad")
    await bus.enqueue("job.test.make", Work(name="good"), id="good")
    async with bus.work("job.test.>", Work) as jobs, asyncio.timeout(10):
        job = await anext(jobs)
        assert job.message.name == "good"
        await job.done()
    assert bus.counts["jobs_given_up"] == 1


@pytest.mark.parametrize("identity", ["", "a.b", "a b", "*", ">", "x" * 129, "ä"])
async def test_an_id_that_cannot_stand_in_a_subject_is_refused(clients: Clients, identity: str) -> None:
    bus = await clients()
    with pytest.raises(Invalid, match="job's id"):
        await bus.enqueue("job.test.make", Work(name="x"), id=identity)
