"""Pull consumers: what a stream has for us, asked for batch by batch on one link."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import nats.errors
from nats.aio.subscription import Subscription as NatsSubscription

from shoal_bus.client import Message
from shoal_bus.errors import BusError, NotPermitted, Unavailable
from shoal_bus.life import Retired
from shoal_bus.link import Link

_BATCH_BYTES = 16 << 20
_EXPIRES, _HEARTBEAT, _SILENCE = 30, 5, 12.5
_NANOSECONDS = 1_000_000_000
_CONTROL = 100
_PULL_ENDED = {404, 408}
_DELIVERY = re.compile(r"\$JS\.ACK(?:\.[^.]+){2}(?:(?:\.[^.]+){2})?\.(\d+)\.(\d+)\.(\d+)\.\d+\.\d+(?:\.[^.]+)?")


@dataclass(frozen=True)
class Stored:
    """A message of a stream: its number there, its number in the consumer, and how many times it was delivered."""

    sequence: int
    delivery: int
    attempt: int
    subject: str
    body: bytes
    headers: Mapping[str, str]
    reply: str


class Broken(Exception):
    """This consumer or link can no longer be read from: make another."""


async def pull(link: Link, stream: str, consumer: str, *, batch: int) -> AsyncGenerator[Stored]:
    """What a pull consumer has, `batch` at a time, on this link. Raises Broken when it cannot go on, NotPermitted if
    we may not ask.
    """
    arrivals = _Arrivals(link, f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")
    try:
        await arrivals.open()
        for number in itertools.count(1):
            async with aclosing(_one_pull(arrivals, number, batch)) as messages:
                async for message in messages:
                    yield message
    except NotPermitted:
        raise
    except (nats.errors.Error, OSError, BusError) as error:
        raise Broken(str(error)) from error
    finally:
        await arrivals.close()


class _Arrivals:
    """The inbox where a consumer's messages arrive."""

    def __init__(self, link: Link, subject: str) -> None:
        self._link = link
        self._subject = subject
        self._inbox = link.inbox()
        self._queue: asyncio.Queue[Message | BusError] = asyncio.Queue()
        self._subscription: NatsSubscription | None = None
        self._last = False

    async def open(self) -> None:
        self._link.watch(self._inbox, self._queue.put_nowait, publishes=self._subject)
        self._subscription = await self._link.subscribe(f"{self._inbox}.*", self._take, bytes_limit=0)
        # `_BATCH_BYTES` bounds it

    async def close(self) -> None:
        self._link.forget(self._inbox)
        if self._subscription is not None:
            await self._link.unsubscribe(self._subscription)

    async def ask(self, number: int, batch: int) -> str:
        """Ask for a batch; gives where its messages arrive. Raises Unavailable."""
        if self._last:
            raise Retired()
        wanted = {
            "batch": batch,
            "max_bytes": _BATCH_BYTES,
            "expires": _EXPIRES * _NANOSECONDS,
            "idle_heartbeat": _HEARTBEAT * _NANOSECONDS,
        }
        inbox = f"{self._inbox}.{number}"
        await self._link.publish(self._subject, json.dumps(wanted).encode(), reply=inbox)
        return inbox

    async def next(self) -> Message:
        """The next message. Raises NotPermitted, and Unavailable behind what came over a lost or renewed link."""
        with self._link.in_use():
            news = await self._get()
            if isinstance(news, Retired) and not self._last and self._subscription is not None:
                self._last = True
                await self._link.leave(self._subscription)  # behind it comes what the server had sent already
                self._queue.put_nowait(news)
                news = await self._get()
        if isinstance(news, BusError):
            raise news
        return news

    async def _get(self) -> Message | BusError:
        try:
            async with asyncio.timeout(_SILENCE if self._queue.empty() else None):
                return await self._queue.get()
        except TimeoutError:
            raise Unavailable(f"nothing was heard for {_SILENCE} s, not even a heartbeat") from None

    async def _take(self, message: Message) -> None:
        self._queue.put_nowait(message)


async def _one_pull(arrivals: _Arrivals, number: int, batch: int) -> AsyncGenerator[Stored]:
    inbox = await arrivals.ask(number, batch)
    received = 0
    while received < batch:
        message = await arrivals.next()
        status = _status(message)
        if status is None:
            received += 1
            yield stored(message)
        elif message.subject != inbox or status == _CONTROL:
            continue
        elif status in _PULL_ENDED or "Batch Completed" in _description(message):
            return
        else:
            raise Broken(f"the server says {status} {_description(message)}")


def stored(message: Message) -> Stored:
    """A delivery as its message; its numbers stand in the subject for the answer (ADR-15). Raises Broken."""
    numbers = _DELIVERY.fullmatch(message.reply)
    if numbers is None:
        raise Broken(f"{message.reply!r} is no delivery of a stream")
    attempt, sequence, delivery = map(int, numbers.groups())
    return Stored(sequence, delivery, attempt, message.subject, message.data, message.headers or {}, message.reply)


def _status(message: Message) -> int | None:
    """The status of a message that is the server's own, and no delivery."""
    if message.reply.startswith("$JS.ACK."):
        return None
    text = (message.headers or {}).get("Status", "")
    return int(text) if text.isdecimal() else 0


def _description(message: Message) -> str:
    return (message.headers or {}).get("Description", "")
