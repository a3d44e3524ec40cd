"""The bus over NATS: see `api` for what it promises."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from shoal_bus import codec, jetstream, jobs, limits, micro, provision, secrecy, streams, trace
from shoal_bus.api import Endpoint, Job, Store
from shoal_bus.connection import DEADLINE, Connection, Credentials, Listening, Message, connect
from shoal_bus.errors import Invalid, Unavailable
from shoal_bus.kv import NatsStore
from shoal_bus.pull import Stored
from shoal_bus.reader import last_sequence, read
from shoal_model import subjects
from shoal_model.permissions import OWNERS

log = logging.getLogger("shoal.bus")

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)


class NatsBus:
    """Made by `NatsBus.connect`."""

    def __init__(self, connection: Connection, own: Credentials, *, creates: bool = True) -> None:
        self.connection = connection
        self._creates = creates
        self._key = own.key
        key, owned = own.key, own.owns
        self._secrets = {} if key is None else {bucket: secrecy.write_secret(key, bucket) for bucket in owned}

    @classmethod
    async def connect(
        cls,
        servers: Sequence[str],
        *,
        name: str,
        credentials: Credentials | Callable[[], Credentials] | None = None,
        timeout: float | None = None,
        creates: bool = True,
    ) -> Self:
        """Connect; tries for ever, or for `timeout` seconds. Raises Unavailable.

        Whoever does not create streams and buckets waits for those it needs, until somebody else has created them; what
        its credentials say is its own, it makes itself.
        """
        connection = await connect(servers, name=name, credentials=credentials, timeout=timeout)
        own = credentials if isinstance(credentials, Credentials) else Credentials()
        return cls(connection, own, creates=creates)

    @property
    def connected(self) -> bool:
        return self.connection.connected

    @property
    def counts(self) -> Mapping[str, int]:
        return self.connection.counts

    async def call(self, subject: str, request: BaseModel, reply: type[R], *, timeout: float = 5.0) -> R:
        headers = {"Schema": schema(type(request))}
        body = await self.connection.request_raw(subject, codec.encode(request), headers, timeout=timeout)
        return codec.decode(body, reply, limits.of_answer(subject))

    async def serve(self, name: str, version: str, endpoints: Sequence[Endpoint[Any]]) -> "Served":
        stats = [micro.EndpointStats(endpoint.subject) for endpoint in endpoints]
        identity = micro.Identity(name, secrets.token_hex(8), version, datetime.now(UTC), stats)
        served = Served()
        try:
            for endpoint, stat in zip(endpoints, stats, strict=True):
                receive = self._receiver(endpoint, stat)
                served.parts.append(await self.connection.listen(endpoint.subject, receive, queue=name))
            for subject in micro.subjects(identity):
                served.parts.append(await self.connection.listen(subject, self._introducer(identity)))
        except BaseException:
            await served.stop()
            raise
        return served

    def _receiver(self, endpoint: Endpoint[Any], stats: micro.EndpointStats) -> Callable[[Message], Awaitable[None]]:
        async def receive(message: Message) -> None:
            if _expired(message):
                self.connection.counts["expired"] += 1
                return

            async def produce() -> tuple[bytes, dict[str, str]]:
                request = codec.decode(self.connection.body(message), endpoint.request, limits.of(message.subject))
                reply = await endpoint.handler(message.subject, request)
                return codec.encode(reply), {"Schema": schema(type(reply))}

            start = time.perf_counter_ns()
            error = await self.connection.answer(message, produce)
            stats.count(time.perf_counter_ns() - start, error)

        return receive

    def _introducer(self, identity: micro.Identity) -> Callable[[Message], Awaitable[None]]:
        async def introduce(message: Message) -> None:
            if message.reply:
                await self.connection.reply(message, micro.answer(identity, message.subject))

        return introduce

    async def publish(self, subject: str, message: BaseModel) -> None:
        await self.connection.publish_raw(subject, codec.encode(message), {"Schema": schema(type(message))})

    async def subscribe(
        self, subject: str, message: type[M], listener: Callable[[str, M], Awaitable[None]], *, queue: str | None = None
    ) -> Listening:
        async def receive(received: Message) -> None:
            trace.enter((received.headers or {}).get("traceparent"))
            try:
                content = codec.decode(self.connection.body(received), message, limits.of(received.subject))
            except Invalid as error:
                self._unfit(received.subject, error)
                return
            await listener(received.subject, content)

        return await self.connection.listen(subject, receive, queue=queue)

    async def emit(self, subject: str, event: BaseModel, *, id: str | None = None) -> None:  # noqa: A002
        headers = {"Schema": schema(type(event))}
        if id is not None:
            headers["Nats-Msg-Id"] = id if self._key is None else secrecy.event_id(self._key, id)
        await jetstream.store(self.connection, subject, codec.encode(event), headers)

    def events(
        self, subject: str, message: type[M], *, since: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[int, str, M]]]:
        return self._events(subject, message, since)

    @asynccontextmanager
    async def _events(
        self, subject: str, message: type[M], since: int | None
    ) -> AsyncIterator[AsyncIterator[tuple[int, str, M]]]:
        stream = subjects.EVENTS_STREAM
        if not self._creates:
            await provision.awaited(self.connection, stream)
        # "from now on" begins here, not when the first event is asked for
        after = since if since is not None else await last_sequence(self.connection, stream, subject)
        async with aclosing(
            self._decoded(read(self.connection, stream, subject, after=after, restart=True), message)
        ) as e:
            yield e

    async def _decoded(
        self, messages: AsyncGenerator[Stored | None, None], message: type[M]
    ) -> AsyncGenerator[tuple[int, str, M], None]:
        async with aclosing(messages):
            async for stored in messages:
                if stored is not None and (content := self._content(stored, message)) is not None:
                    yield stored.sequence, stored.subject, content

    def _content(self, stored: Stored, message: type[M]) -> M | None:
        try:
            most = limits.of(stored.subject)
            body = codec.expand(stored.body, stored.headers.get(codec.CONTENT_ENCODING), most)
            return codec.decode(body, message, most)
        except Invalid as error:
            self._unfit(stored.subject, error)
            return None

    async def latest(self, subject: str, message: type[M], *, timeout: float = 5.0) -> Sequence[tuple[int, str, M]]:
        messages = read(self.connection, subjects.EVENTS_STREAM, subject, after=0, latest=True)
        found = []
        try:
            async with asyncio.timeout(timeout), aclosing(messages):
                async for stored in messages:
                    if stored is None:  # that was all there is
                        break
                    if (content := self._content(stored, message)) is not None:
                        found.append((stored.sequence, stored.subject, content))
        except TimeoutError:
            raise Unavailable(f"the stored events of {subject} could not be read within {timeout:g} s") from None
        return found

    async def enqueue(self, subject: str, message: BaseModel, *, id: str) -> None:  # noqa: A002
        await jobs.enqueue(self.connection, subject, codec.encode(message), id, schema(type(message)))

    def work(self, subject: str, message: type[M]) -> AbstractAsyncContextManager[AsyncIterator[Job[M]]]:
        return self._work(subject, message)

    @asynccontextmanager
    async def _work(self, subject: str, message: type[M]) -> AsyncIterator[AsyncIterator[Job[M]]]:
        if not self._creates:
            await provision.awaited(self.connection, subjects.JOBS_STREAM)
        async with jobs.work(self.connection, subject, message) as work:
            yield work

    async def store(self, bucket: str) -> Store:
        secret = self._secrets.get(bucket)
        if secret is not None or (self._creates and not (self._secrets and bucket in OWNERS)):
            await provision.made(self.connection, streams.bucket(bucket, secret))
        else:
            readable = streams.keys(bucket) if bucket in OWNERS else None
            await provision.awaited(self.connection, streams.bucket(bucket)["name"], readable)
        return NatsStore(self.connection, bucket, secret)

    async def prepare(self) -> None:
        if self._creates:
            await provision.create_all(self.connection, self._secrets)
        else:
            await provision.await_all(self.connection)

    async def flush(self) -> None:
        await self.connection.flush()

    async def drain(self) -> None:
        await self.connection.drain()

    async def close(self) -> None:
        await self.connection.close()

    def _unfit(self, subject: str, error: Invalid) -> None:
        self.connection.counts["rejected"] += 1
        log.warning("bus.rejected subject=%s error=%s", subject, error)


class Served:
    """A service's endpoints, as one subscription."""

    def __init__(self) -> None:
        self.parts: list[Listening] = []

    async def stop(self) -> None:
        """Take no more requests, finish those that run."""
        await asyncio.gather(*(part.stop() for part in self.parts))


def schema(message: type[BaseModel]) -> str:
    """What the header `Schema` says of a message: `NodeOptions/1`. The version only ever changes with the name."""
    return f"{message.__name__}/1"


def _expired(message: Message) -> bool:
    """Whether the caller has stopped waiting while the request waited for its turn."""
    text = (message.headers or {}).get(DEADLINE, "")
    try:
        return bool(text) and time.monotonic() - message.arrived > float(text)
    except ValueError:
        return False
