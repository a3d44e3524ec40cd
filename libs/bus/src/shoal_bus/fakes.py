"""The bus in memory, for tests: the same promises as the real one (see `api`), held by the same contract suite.

`MemoryBus()` is a bus of its own; `bus.client()` is another participant on it. Bodies go through the codec, so that
what could not cross the wire cannot cross here.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

from shoal_bus import codec, streams, trace
from shoal_bus.api import Endpoint, Entry, Job, Store, Write
from shoal_bus.errors import BY_CODE, BusError, Conflict, Internal, Invalid, Unavailable
from shoal_bus.link import NoResponders
from shoal_model import subjects

log = logging.getLogger("shoal.bus")

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

_AT_ONCE = 256
_DRAIN_TIMEOUT = 8.0


class MemoryStore:
    """See `api.Store`."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._log: list[Entry] = []
        self._changed = asyncio.Condition()
        self._revision = 0

    async def get(self, key: str) -> Entry | None:
        entry = self._entries.get(streams.key(key))
        return None if entry is None or entry.value is None else entry

    async def load(self) -> Sequence[Entry]:
        return sorted(self._entries.values(), key=lambda entry: entry.revision)

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int:
        return await self.commit([Write(key, value, expected)])

    async def delete(self, key: str) -> None:
        if await self.get(key) is not None:
            await self.commit([Write(key, None)])

    async def commit(self, writes: Sequence[Write]) -> int:
        streams.check(writes)
        await asyncio.sleep(0)
        for write in writes:
            there = self._entries[write.key].revision if write.key in self._entries else 0
            if write.expected is not None and write.expected != there:
                raise Conflict(f"{write.key}: changed meanwhile: revision {there}, not {write.expected}")
        for write in writes:
            self._revision += 1
            entry = Entry(write.key, write.value, self._revision)
            self._entries[write.key] = entry
            self._log.append(entry)
        async with self._changed:
            self._changed.notify_all()
        return self._revision

    def watch(self, *, after: int = 0) -> AbstractAsyncContextManager[AsyncIterator[Entry | None]]:
        return self._watch(after)

    @asynccontextmanager
    async def _watch(self, after: int) -> AsyncIterator[AsyncIterator[Entry | None]]:
        async with aclosing(self._follow(after)) as entries:
            yield entries

    async def _follow(self, after: int) -> AsyncGenerator[Entry | None, None]:
        for entry in [e for e in await self.load() if e.revision > after]:
            after = entry.revision
            yield entry
        yield None
        while True:
            async with self._changed:
                while self._revision <= after:
                    await self._changed.wait()
            for entry in self._log[after:]:
                after = entry.revision
                yield entry


@dataclass
class _Waiting:
    """A job in the queue: free to be taken from `free_at` on, seconds of the loop's clock."""

    subject: str
    body: bytes
    free_at: float = 0.0
    attempts: int = 0


@dataclass
class _Broker:
    """What the clients of one bus share."""

    listeners: list["_Listener"] = field(default_factory=list)
    stores: dict[str, MemoryStore] = field(default_factory=dict)
    events: list[tuple[str, bytes]] = field(default_factory=list)
    event_ids: set[str] = field(default_factory=set)
    jobs: dict[str, _Waiting] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def send(self, subject: str, body: bytes, answer: "asyncio.Future[bytes] | None" = None) -> bool:
        """Give a message to one of each queue group and all others; False if nobody hears it."""
        groups: dict[object, list[_Listener]] = {}
        for listener in self.listeners:
            if streams.matches(listener.pattern, subject):
                groups.setdefault(listener.queue or listener, []).append(listener)
        for members in groups.values():
            secrets.choice(members).take(subject, body, answer)
        return bool(groups)

    async def tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class _Listener:
    """A subscription: runs `receive` in a task for each message."""

    def __init__(
        self, broker: _Broker, pattern: str, queue: str | None, receive: Callable[[str, bytes], Awaitable[bytes]]
    ) -> None:
        self.pattern = pattern
        self.queue = queue
        self._broker = broker
        self._receive = receive
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        broker.listeners.append(self)

    def take(self, subject: str, body: bytes, answer: "asyncio.Future[bytes] | None") -> None:
        task = asyncio.create_task(self._run(subject, body, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, subject: str, body: bytes, answer: "asyncio.Future[bytes] | None") -> None:
        async with self._free:
            try:
                reply = await self._receive(subject, body)
            except BusError as error:
                if answer is None:
                    log.warning("bus.rejected subject=%s error=%s", subject, error)
                elif not answer.done():
                    answer.set_exception(BY_CODE.get(error.code, Internal)(str(error)))
                return
            if answer is not None and not answer.done():
                answer.set_result(reply)

    async def stop(self) -> None:
        if self in self._broker.listeners:
            self._broker.listeners.remove(self)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_DRAIN_TIMEOUT)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Served:
    def __init__(self, parts: Sequence[_Listener]) -> None:
        self._parts = parts

    async def stop(self) -> None:
        await asyncio.gather(*(part.stop() for part in self._parts))


class MemoryBus:
    """A bus, or with `client()` one more participant on it. `connected` may be set to play a lost connection."""

    def __init__(self, broker: _Broker | None = None) -> None:
        self._broker = broker or _Broker()
        self._listeners: list[_Listener] = []
        self._counts: Counter[str] = Counter()
        self.connected = True

    def client(self) -> "MemoryBus":
        """Another participant on the same bus."""
        return MemoryBus(self._broker)

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    async def call(self, subject: str, request: BaseModel, reply: type[R], *, timeout: float = 5.0) -> R:
        self._reachable()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if not self._broker.send(subject, codec.encode(request), answer):
            raise NoResponders(f"nobody answers {subject} now: is its service running?")
        try:
            async with asyncio.timeout(timeout):
                return codec.decode(await answer, reply)
        except TimeoutError:
            raise Unavailable(f"{subject} did not answer within {timeout:g} s; it may still be carried out") from None

    async def serve(self, name: str, version: str, endpoints: Sequence[Endpoint[Any]]) -> _Served:
        return _Served([self._listen(e.subject, name, self._answerer(e)) for e in endpoints])

    def _answerer(self, endpoint: Endpoint[Any]) -> Callable[[str, bytes], Awaitable[bytes]]:
        async def receive(subject: str, body: bytes) -> bytes:
            trace.enter(None)
            try:
                return codec.encode(await endpoint.handler(subject, codec.decode(body, endpoint.request)))
            except BusError:
                raise
            except Exception:
                failure = Internal(f"internal error {secrets.token_hex(4)}")
                self._counts["handler_errors"] += 1
                log.exception("bus.handler subject=%s error=%s", subject, failure)
                raise failure from None

        return receive

    async def publish(self, subject: str, message: BaseModel) -> None:
        self._reachable()
        body = codec.encode(message)
        self._broker.send(subject, body)
        if streams.matches(subjects.TOLD, subject):
            subject = f"evt.{subject.removeprefix('told.')}"
            self._broker.send(subject, body)
        if streams.matches(subjects.EVENTS, subject):
            await self._append(subject, body)

    async def subscribe(
        self, subject: str, message: type[M], listener: Callable[[str, M], Awaitable[None]], *, queue: str | None = None
    ) -> _Listener:
        async def receive(where: str, body: bytes) -> bytes:
            content = self._fitting(where, body, message)
            if content is not None:
                try:
                    await listener(where, content)
                except Exception:
                    self._counts["handler_errors"] += 1
                    log.exception("bus.handler subject=%s", where)
            return b""

        return self._listen(subject, queue, receive)

    async def emit(self, subject: str, event: BaseModel, *, id: str | None = None) -> None:  # noqa: A002
        self._reachable()
        if id is not None and id in self._broker.event_ids:
            return
        if id is not None:
            self._broker.event_ids.add(id)
        body = codec.encode(event)
        self._broker.send(subject, body)
        await self._append(subject, body)

    def events(
        self, subject: str, message: type[M], *, since: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[int, str, M]]]:
        return self._events(subject, message, since)

    @asynccontextmanager
    async def _events(
        self, subject: str, message: type[M], since: int | None
    ) -> AsyncIterator[AsyncIterator[tuple[int, str, M]]]:
        end = len(self._broker.events)
        start = end if since is None else since if since <= end else 0
        async with aclosing(self._follow(subject, message, start)) as events:
            yield events

    async def _follow(self, pattern: str, message: type[M], position: int) -> AsyncGenerator[tuple[int, str, M], None]:
        events = self._broker.events
        while True:
            async with self._broker.changed:
                while len(events) <= position:
                    await self._broker.changed.wait()
            subject, body = events[position]
            position += 1
            content = self._fitting(subject, body, message) if streams.matches(pattern, subject) else None
            if content is not None:
                yield position, subject, content

    async def latest(self, subject: str, message: type[M], *, timeout: float = 5.0) -> Sequence[tuple[int, str, M]]:
        self._reachable()
        newest = {where: (number, body) for number, (where, body) in enumerate(self._broker.events, 1)}
        found = [(number, where, body) for where, (number, body) in newest.items() if streams.matches(subject, where)]
        read = [(number, where, self._fitting(where, body, message)) for number, where, body in sorted(found)]
        return [(number, where, content) for number, where, content in read if content is not None]

    async def enqueue(self, subject: str, message: BaseModel, *, id: str) -> None:  # noqa: A002
        self._reachable()
        where = streams.job_subject(subject, id)
        if where not in self._broker.jobs:
            self._broker.jobs[where] = _Waiting(where, codec.encode(message))
            await self._broker.tell()

    def work(self, subject: str, message: type[M]) -> AbstractAsyncContextManager[AsyncIterator[Job[M]]]:
        return self._work(subject, message)

    @asynccontextmanager
    async def _work(self, subject: str, message: type[M]) -> AsyncIterator[AsyncIterator[Job[M]]]:
        async with aclosing(self._jobs(streams.job_filter(subject), message)) as jobs:
            yield jobs

    async def _jobs(self, pattern: str, message: type[M]) -> AsyncGenerator[Job[M], None]:
        loop = asyncio.get_running_loop()
        while True:
            waiting = [job for where, job in self._broker.jobs.items() if streams.matches(pattern, where)]
            free = next((job for job in waiting if job.free_at <= loop.time()), None)
            if free is None:
                await self._wait_for_jobs(min((job.free_at for job in waiting), default=None))
                continue
            free.attempts += 1
            free.free_at = loop.time() + streams.JOB_SILENCE
            content = self._fitting(free.subject, free.body, message)
            if content is None or free.attempts > streams.JOB_DELIVERIES:
                self._give_up(free)
                continue
            yield self._job(free, content)

    def _give_up(self, job: _Waiting) -> None:
        self._counts["jobs_given_up"] += 1
        log.error("bus.job_given_up subject=%s", job.subject)
        self._broker.jobs.pop(job.subject, None)

    async def _wait_for_jobs(self, until: float | None) -> None:
        left = None if until is None else max(until - asyncio.get_running_loop().time(), 0.0)
        try:
            async with asyncio.timeout(left), self._broker.changed:
                await self._broker.changed.wait()
        except TimeoutError:
            return

    def _job(self, job: _Waiting, content: M) -> Job[M]:
        loop, attempt = asyncio.get_running_loop(), job.attempts

        async def done() -> None:
            self._broker.jobs.pop(job.subject, None)

        async def again(seconds: float) -> None:
            if attempt >= streams.JOB_ATTEMPTS:
                self._give_up(job)
                return
            job.free_at = loop.time() + seconds
            await self._broker.tell()

        async def still_working() -> None:
            job.free_at = loop.time() + streams.JOB_SILENCE

        where, _, identity = job.subject.rpartition(".")
        return Job(where, content, identity, attempt, done, again, still_working)

    async def store(self, bucket: str) -> Store:
        streams.bucket(bucket)
        return self._broker.stores.setdefault(bucket, MemoryStore())

    async def prepare(self) -> None:
        return

    async def flush(self) -> None:
        self._reachable()

    async def drain(self) -> None:
        await asyncio.gather(*(listener.stop() for listener in self._listeners))

    async def close(self) -> None:
        await self.drain()
        self.connected = False

    def _listen(self, pattern: str, queue: str | None, receive: Callable[[str, bytes], Awaitable[bytes]]) -> _Listener:
        listener = _Listener(self._broker, pattern, queue, receive)
        self._listeners.append(listener)
        return listener

    async def _append(self, subject: str, body: bytes) -> None:
        self._broker.events.append((subject, body))
        await self._broker.tell()

    def _fitting(self, subject: str, body: bytes, message: type[M]) -> M | None:
        try:
            return codec.decode(body, message)
        except Invalid as error:
            self._counts["rejected"] += 1
            log.warning("bus.rejected subject=%s error=%s", subject, error)
            return None

    def _reachable(self) -> None:
        if not self.connected:
            raise Unavailable("the bus cannot be reached")
