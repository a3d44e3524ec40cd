"""How the bus in memory matches subjects, how jobs and traces are named; time and wires play no part."""

import asyncio
import contextvars

import pytest

from shoal_bus import streams, trace
from shoal_bus.streams import matches


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a.b.c", False),
        ("a.b.c", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.*.c.>", "a.b.c.d", True),
        ("a.*.c.>", "a.b.x.d", False),
    ],
)
def test_patterns(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@pytest.mark.parametrize(
    ("subject", "pattern", "name"),
    [
        ("job.image.build", "job.image.build.*", "job_image_build"),
        ("job.image.>", "job.image.>", "job_image_all"),
        ("job.*.build", "job.*.build.*", "job_any_build"),
    ],
)
def test_workers_share_a_consumer_by_what_they_take(subject: str, pattern: str, name: str) -> None:
    consumer = streams.job_worker(subject)
    assert (consumer["filter_subject"], consumer["durable_name"]) == (pattern, name)
    assert matches(pattern, streams.job_subject(subject.replace("*", "x").replace(">", "build"), "id-1"))


async def test_a_trace_is_its_tasks_own() -> None:
    async def enter(header: str | None) -> str | None:
        trace.enter(header)
        await asyncio.sleep(0)
        return trace.trace_id()

    given = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    first, second, third = await asyncio.gather(enter(given), enter(None), enter("rubbish"))
    assert first == "0123456789abcdef0123456789abcdef"
    assert second is not None
    assert third is not None
    assert second != third
    assert trace.trace_id() is None


def test_what_is_sent_along_keeps_the_trace_and_has_a_span_of_its_own() -> None:
    def send_twice() -> set[str]:
        trace.enter("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
        return {trace.header(), trace.header()}

    headers = contextvars.copy_context().run(send_twice)
    assert len(headers) == 2
    assert all(header.startswith("00-0123456789abcdef0123456789abcdef-") for header in headers)
