"""Reading a stream in order and without a gap, whatever happens to links and consumers on the way.

A pull consumer under a name that nobody can guess, one batch at a time: the server sends what was asked for and no
more, so that a slow reader slows the stream down and loses nothing. Each message tells its own number and the
consumer's: a gap, silence, or a lost link makes a new consumer that begins behind the last message given out.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from shoal_bus import streams
from shoal_bus.connection import Connection
from shoal_bus.errors import BusError, Unavailable
from shoal_bus.jetstream import make_consumer
from shoal_bus.link import Link
from shoal_bus.pull import Broken, Stored, pull

log = logging.getLogger("shoal.bus")

_BATCH = 500
_NANOSECONDS = 1_000_000_000
_FORGET_AFTER = 60
_LONGEST_PAUSE = 5.0


async def read(
    connection: Connection, stream: str, pattern: str, *, after: int, latest: bool = False, restart: bool = False
) -> AsyncGenerator[Stored | None, None]:
    """Messages on `pattern` behind sequence `after`, then None when all that was there has been given, then each as it
    comes. `latest` gives only the newest of each subject of those that are there already.

    A stream that ends before what was already read is another one now: `restart` begins with it, else Unavailable.
    """
    position, told = after, False
    while True:
        link, consumer, position = await _begin(connection, stream, pattern, position, latest=latest, restart=restart)
        name, waiting = consumer["name"], int(consumer["num_pending"])
        try:
            if not told and waiting == 0:
                told = True
                yield None
            async with aclosing(_deliveries(link, stream, name)) as deliveries:
                async for message in deliveries:
                    position = message.sequence
                    if not streams.matches(pattern, message.subject):
                        _tell_of_stray(connection, stream, message)
                        continue
                    yield message
                    waiting -= 1
                    if not told and waiting <= 0:
                        told = True
                        yield None
        except Broken as error:
            connection.counts["read_again"] += 1
            log.info("bus.read_again stream=%s after=%d reason=%s", stream, position, error)
        finally:
            await _delete(link, stream, name)


def _tell_of_stray(connection: Connection, stream: str, message: Stored) -> None:
    """Whoever reads one stream may have the server deliver it into another. Where a filter is all that a stream takes,
    the server gives such a message among the newest of each subject, and has not counted it as pending.
    """
    connection.counts["strays"] += 1
    total = connection.counts["strays"]
    if total & (total - 1) == 0:
        told = "bus.stray stream=%s sequence=%d subject=%.200r total=%d (somebody has another stream delivered into it)"
        log.error(told, stream, message.sequence, message.subject, total)


async def _begin(
    connection: Connection, stream: str, pattern: str, position: int, *, latest: bool, restart: bool
) -> tuple[Link, Mapping[str, Any], int]:
    """A link, a consumer on it, and the position behind which it begins; tried with growing pauses until there is one.

    Raises ReplacedStream.
    """
    failures = 0
    while True:
        link = await connection.link()
        try:
            position = await _resumed(connection, stream, pattern, position, restart=restart)
            consumer = await _create(connection, stream, pattern, _start(position, latest=latest))
        except ReplacedStream:
            raise
        except Unavailable as error:
            failures += 1
            connection.counts["read_errors"] += 1
            log.warning("bus.read stream=%s attempts=%d error=%s", stream, failures, error)
            await asyncio.sleep(random.uniform(0, min(0.1 * 2 ** min(failures, 10), _LONGEST_PAUSE)))
        else:
            return link, consumer, position


async def _resumed(connection: Connection, stream: str, pattern: str, position: int, *, restart: bool) -> int:
    """Where to go on in a stream that was read up to `position`: there, or at 0 if it was made anew since."""
    if position == 0 or position <= (last := await last_sequence(connection, stream, pattern)):
        return position
    if not restart:
        raise ReplacedStream(f"stream {stream} was made anew (it ends at {last}, not {position}): start over")
    log.warning("bus.stream_replaced stream=%s ends=%d position=%d", stream, last, position)
    return 0


class ReplacedStream(Unavailable):
    """The stream ends before the position that was already read: it is another one now."""


async def last_sequence(connection: Connection, stream: str, pattern: str = ">") -> int:
    """The sequence of a stream's newest message; 0 if it never had one. Raises JetStreamError, Unavailable.

    `pattern` is what we may read of it. Whoever may not ask how a stream is makes a consumer of what is new in it: the
    server says where that begins.
    """
    link = await connection.link()
    consumer = await _create(connection, stream, pattern, {"deliver_policy": "new"})
    await _delete(link, stream, consumer["name"])
    return int(consumer["delivered"]["stream_seq"])


def _start(position: int, *, latest: bool) -> Mapping[str, Any]:
    if latest and position == 0:
        return {"deliver_policy": "last_per_subject"}
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": position + 1}


async def _create(connection: Connection, stream: str, pattern: str, start: Mapping[str, Any]) -> Mapping[str, Any]:
    config = {
        "name": secrets.token_hex(16),
        "filter_subject": pattern,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _FORGET_AFTER * _NANOSECONDS,
        **start,
    }
    return await make_consumer(connection, stream, config)


async def _delete(link: Link, stream: str, name: str) -> None:
    """Spare the server a consumer that nobody reads; if this is lost, it forgets it after a minute."""
    try:
        await link.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"", reply=link.inbox())
    except BusError:
        log.debug("bus.consumer_left stream=%s consumer=%s", stream, name)


async def _deliveries(link: Link, stream: str, consumer: str) -> AsyncGenerator[Stored]:
    expected = 1
    async with aclosing(pull(link, stream, consumer, batch=_BATCH)) as messages:
        async for message in messages:
            if message.delivery != expected:
                raise Broken(f"delivery {expected} is missing, {message.delivery} came")
            expected += 1
            yield message
