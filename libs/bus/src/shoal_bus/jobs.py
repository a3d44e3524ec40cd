"""The work queue on the real bus: stream JOBS, one durable pull consumer for each kind of work."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from pydantic import BaseModel

from shoal_bus import codec, jetstream, streams
from shoal_bus.api import Job
from shoal_bus.connection import Connection
from shoal_bus.errors import BusError, Invalid, Unavailable
from shoal_bus.pull import Broken, Stored, pull
from shoal_model import subjects

log = logging.getLogger("shoal.bus")

M = TypeVar("M", bound=BaseModel)

_TIMEOUT = 5.0
_TRIES = 3
_LONGEST_PAUSE = 5.0


async def enqueue(connection: Connection, subject: str, body: bytes, identity: str, schema: str) -> None:
    """Store a job, unless one with this id is there already."""
    try:
        await jetstream.store(connection, streams.job_subject(subject, identity), body, {"Schema": schema})
    except jetstream.JetStreamError as error:
        if not error.subject_full:
            raise


@asynccontextmanager
async def work(connection: Connection, subject: str, message: type[M]) -> AsyncIterator[AsyncIterator[Job[M]]]:
    """See `api.Bus.work`."""
    async with aclosing(_jobs(connection, subject, message)) as jobs:
        yield jobs


async def _jobs(connection: Connection, subject: str, message: type[M]) -> AsyncGenerator[Job[M], None]:
    stream, config = subjects.JOBS_STREAM, streams.job_worker(subject)
    name, failures = config["name"], 0
    while True:
        link = await connection.link()
        try:
            await jetstream.make_consumer(connection, stream, config)
        except Unavailable as error:
            failures += 1
            log.warning("bus.work subject=%s attempts=%d error=%s", subject, failures, error)
            await asyncio.sleep(random.uniform(0, min(0.1 * 2 ** min(failures, 10), _LONGEST_PAUSE)))
            continue
        try:
            async with aclosing(pull(link, stream, name, batch=1)) as deliveries:
                async for delivery in deliveries:
                    failures = 0
                    job = await _job(connection, delivery, message)
                    if job is not None:
                        yield job
        except Broken as error:
            log.info("bus.work_again subject=%s reason=%s", subject, error)


async def _job(connection: Connection, delivery: Stored, message: type[M]) -> Job[M] | None:
    """The job in a delivery; one that cannot be read, or was given out too often, is taken out of the queue."""
    where, _, identity = delivery.subject.rpartition(".")

    async def done() -> None:
        await _tell(connection, delivery, b"+ACK")

    async def again(seconds: float) -> None:
        if delivery.attempt >= streams.JOB_ATTEMPTS:
            await _give_up(connection, delivery, f"failed {delivery.attempt} times")
            return
        await _tell(connection, delivery, f'-NAK {{"delay": {int(seconds * 1e9)}}}'.encode())

    async def still_working() -> None:
        await _tell(connection, delivery, b"+WPI")

    if delivery.attempt > streams.JOB_DELIVERIES:
        await _give_up(connection, delivery, f"its worker died {delivery.attempt - 1} times")
        return None
    try:
        content = codec.decode(delivery.body, message)
    except Invalid as error:
        await _give_up(connection, delivery, str(error))
        return None
    return Job(where, content, identity, delivery.attempt, done, again, still_working)


async def _give_up(connection: Connection, delivery: Stored, reason: str) -> None:
    connection.counts["jobs_given_up"] += 1
    log.error("bus.job_given_up subject=%s reason=%s", delivery.subject, reason)
    await _tell(connection, delivery, b"+TERM")


async def _tell(connection: Connection, delivery: Stored, word: bytes) -> None:
    """Tell the queue about a job, and return when it knows. If it cannot be told, the job comes back: that is safe."""
    for attempt in range(_TRIES):
        try:
            await connection.exchange(delivery.reply, word, None, timeout=_TIMEOUT)
            return
        except BusError as error:
            log.warning("bus.job_untold subject=%s word=%s attempt=%d error=%s", delivery.subject, word, attempt, error)
