"""The bus as services see it. `shoal_bus.nats` is the real one, `shoal_bus.fakes` one in memory; one contract suite
in `tests/contract` holds for both.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

from pydantic import BaseModel
from typing_extensions import TypeVar

M = TypeVar("M", bound=BaseModel, default=BaseModel)
Q = TypeVar("Q", bound=BaseModel, default=Any)
R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True)
class Endpoint(Generic[Q]):
    """One verb of a service: what it listens to, what it takes, who answers. `subject` may end in `*`; the handler gets
    the request's own, which may name a node, and its message. BusErrors that it raises go to the caller.
    """

    subject: str
    request: type[Q]
    handler: Callable[[str, Q], Awaitable[BaseModel]]


@dataclass(frozen=True)
class Entry:
    """A key of a bucket: value None where it is deleted (a tombstone), `revision` in either case."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True)
class Write:
    """One key of a batch. `expected` is the revision it must still have: 0 for a key that never was, the tombstone's
    revision for a deleted one, None for any. `value` None deletes.
    """

    key: str
    value: bytes | None
    expected: int | None = None


@dataclass(frozen=True)
class Job(Generic[M]):
    """A piece of work: its subject (without the id), its message, and how to tell the queue how it went.

    `attempt` counts from 1. `again(seconds)` on attempt `streams.JOB_ATTEMPTS` gives the job up: what is to be said on
    `evt.job.<id>.done` must be said before. A job on which that many workers died comes with a greater `attempt`: it is
    not to be tried any more, only to be told of, then `done()`. Beyond `streams.JOB_DELIVERIES` it does not come.
    """

    subject: str
    message: M
    id: str
    attempt: int
    done: Callable[[], Awaitable[None]] = field(repr=False)
    again: Callable[[float], Awaitable[None]] = field(repr=False)
    still_working: Callable[[], Awaitable[None]] = field(repr=False)


class Subscription(Protocol):
    """A standing interest in messages."""

    async def stop(self) -> None:
        """Take no more messages, finish the handlers that run."""


class Store(Protocol):
    """A bucket: keys with values and revisions. Reads are served by the leader."""

    async def get(self, key: str) -> Entry | None:
        """The key as it is now; None if it never was or is deleted."""

    async def load(self) -> Sequence[Entry]:
        """Every key that is there now, tombstones included, in order of revision."""

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int:
        """Write one key and return its revision. Raises Conflict if `expected` does not hold."""

    async def delete(self, key: str) -> None:
        """Delete one key; nothing happens if it is not there."""

    async def commit(self, writes: Sequence[Write]) -> int:
        """Write all (1 to 900) or none, and return the last revision.

        Raises Conflict if an expectation does not hold, Unavailable if the outcome is unknown: then read a key of
        the batch to learn whether it happened.
        """

    def watch(self, *, after: int = 0) -> AbstractAsyncContextManager[AsyncIterator[Entry | None]]:
        """Every entry with a revision above `after`, then None once all that was there has been given, then each change
        as it comes. Survives reconnects without a gap.
        """


class Bus(Protocol):
    """Requests, messages, events, work and buckets. Bodies are msgpack of one pydantic model (see `codec`)."""

    @property
    def connected(self) -> bool:
        """Whether the server can be reached right now."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What went wrong so far, by kind: lost connections, messages that did not fit, handlers that failed …"""

    async def call(self, subject: str, request: BaseModel, reply: type[R], *, timeout: float = 5.0) -> R:
        """Ask and wait for the answer. Raises the BusError that the other side raised; Unavailable when nobody
        answers in `timeout` seconds or nobody listens.
        """

    async def serve(self, name: str, version: str, endpoints: Sequence[Endpoint]) -> Subscription:
        """Answer requests in queue group `name`, many at a time; be visible as a NATS micro service (ADR-32)."""

    async def publish(self, subject: str, message: BaseModel) -> None:
        """Send to whoever listens now (core NATS): may be lost."""

    async def subscribe(
        self, subject: str, message: type[M], listener: Callable[[str, M], Awaitable[None]], *, queue: str | None = None
    ) -> Subscription:
        """Hear messages as they are sent. A message that does not fit its model is logged, counted and dropped; what
        the listener raises is logged and counted.
        """

    async def emit(self, subject: str, event: BaseModel, *, id: str | None = None) -> None:  # noqa: A002
        """Append an event to the stream EVENTS and return when it is stored. The same id within two minutes is
        stored once.
        """

    def events(
        self, subject: str, message: type[M], *, since: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[int, str, M]]]:
        """Stored events in order: (sequence, subject, message). `since` None gives new ones alone, 0 all from the
        beginning, n those behind sequence n. What does not fit `message` is logged, counted and skipped.
        """

    async def latest(self, subject: str, message: type[M], *, timeout: float = 5.0) -> Sequence[tuple[int, str, M]]:
        """The newest stored event of each subject, those that are there now, in order: what `events` gives. Raises
        Unavailable after `timeout` seconds.
        """

    async def enqueue(self, subject: str, message: BaseModel, *, id: str) -> None:  # noqa: A002
        """Put work into the queue JOBS. While a job with this id waits or runs, the same id changes nothing."""

    def work(self, subject: str, message: type[M]) -> AbstractAsyncContextManager[AsyncIterator[Job[M]]]:
        """Take jobs one by one. Each must end in `done()` or `again(seconds)`; one that does neither comes back, and
        so does one for which nothing was said in `streams.JOB_SILENCE` seconds: see `still_working()`.
        """

    async def store(self, bucket: str) -> Store:
        """Open a bucket: one that is missing is created, or awaited by those who do not create any."""

    async def prepare(self) -> None:
        """Create the streams and buckets of Shoal that are missing, or await those that all services may use."""

    async def flush(self) -> None:
        """Return when the bus has all that was published. Raises NotPermitted if it refused some of it, Unavailable."""

    async def drain(self) -> None:
        """Take no more requests and messages, and finish the handlers that run. Calls still work."""

    async def close(self) -> None:
        """Drain, then disconnect."""
