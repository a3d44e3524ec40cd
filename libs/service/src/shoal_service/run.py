"""The life of a service: settings, logs, health pages, bus, tasks, drain."""

import asyncio
import contextvars
import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar

import structlog
from structlog.stdlib import BoundLogger

from shoal_bus.api import Bus
from shoal_bus.nats import NatsBus
from shoal_bus.servers import without_secrets
from shoal_model.subjects import Service
from shoal_service import health, logs
from shoal_service.errors import Fatal
from shoal_service.settings import ServiceSettings, parse

S = TypeVar("S", bound=ServiceSettings)
T = TypeVar("T")

DRAIN_REQUESTS = 4.0
"""Seconds for the requests that run when a service is told to stop; then its tasks are cancelled."""
DRAIN_ALL = 9.0
"""Seconds for everything; then the process ends as it is."""


@dataclass(frozen=True)
class Context(Generic[S]):
    """What a service's body works with."""

    service: Service
    settings: S
    bus: Bus
    tasks: asyncio.TaskGroup
    log: BoundLogger
    readiness: health.Readiness

    def ready(self) -> None:
        """Say that everything answers: `/readyz` becomes 200."""
        self.readiness.ready()
        self.log.info("service.ready")

    def now(self) -> datetime:
        """The time of day, aware, UTC."""
        return datetime.now(UTC)

    @property
    def version(self) -> str:
        """The release of this service, as its distribution says."""
        return release(self.service)


def release(service: Service) -> str:
    """The version of a service's distribution; `0.0.0` if it is not installed as one."""
    try:
        return version(f"shoal-{service}")
    except PackageNotFoundError:
        return "0.0.0"


def run(service: Service, settings: type[S], body: Callable[[Context[S]], Awaitable[None]]) -> None:
    """Run a service until it is told to stop (SIGTERM, SIGINT: status 0) or one of its tasks fails (status 1).

    `body` gets a `Context` and may return: what it set up goes on. Bad settings end the program with status 2.
    """
    parsed = parse(service, settings)
    logs.configure(parsed.log_level, as_json=parsed.log_json)
    log: BoundLogger = structlog.stdlib.get_logger(f"shoal.{service}")
    _take_all_descriptors()
    sys.exit(asyncio.run(_Life(service, parsed, body, log).run()))


def _take_all_descriptors() -> None:
    """As many open files as we may: the usual 1024 are as few for the sake of programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Stopped(Exception):
    """Ends the tasks of a service that was told to stop."""


class _Tasks(asyncio.TaskGroup):
    """Tells of a failure when it happens: the group itself waits first for all its other tasks, maybe for ever."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        super().__init__()
        self._failed = failed

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """As every group's."""
        task = super().create_task(coro, name=name, context=context)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, _Stopped):
            self._failed(error)


class _Life(Generic[S]):
    """A service from its start to its end."""

    def __init__(
        self, service: Service, settings: S, body: Callable[[Context[S]], Awaitable[None]], log: BoundLogger
    ) -> None:
        self._service = service
        self._settings = settings
        self._body = body
        self._log = log
        self._stop = asyncio.Event()
        self._failed = asyncio.Event()
        self._readiness = health.Readiness()
        self._bus: NatsBus | None = None

    async def run(self) -> int:
        """The exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        settings = self._settings
        servers = [without_secrets(server) for server in settings.nats]
        self._log.info("service.start", version=release(self._service), nats=servers, metrics=settings.metrics)
        life = asyncio.create_task(self._live())
        ends = [asyncio.create_task(event.wait()) for event in (self._stop, self._failed)]
        await asyncio.wait({life, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if not life.done():
            self._log.info("service.stopping")
            await asyncio.wait({life}, timeout=DRAIN_ALL)
        if not life.done():
            self._log.error("service.stuck", seconds=DRAIN_ALL, at=_where())
            logging.shutdown()
            os._exit(1)  # asyncio.run() would wait for what is stuck
        self._log.info("service.end", status=life.result())
        return life.result()

    async def _live(self) -> int:
        try:
            async with health.served(self._settings.metrics, self._readiness, self._connected, self._counts):
                bus = await self._unless_stopped(NatsBus.connect(self._settings.nats, name=f"shoal-{self._service}"))
                if bus is None:
                    return 0
                self._bus = bus
                try:
                    await self._unless_stopped(bus.prepare())
                    await self._work(bus)
                finally:
                    await bus.close()
        except Exception as error:
            for leaf in _leaves(error):
                told = None if isinstance(leaf, Fatal) else leaf
                self._log.error("service.failed", error=str(leaf) or type(leaf).__name__, exc_info=told)
            return 1
        return 0

    async def _work(self, bus: NatsBus) -> None:
        try:
            async with _Tasks(self._fail) as tasks:
                context = Context(self._service, self._settings, bus, tasks, self._log, self._readiness)
                tasks.create_task(self._drain_when_stopped(bus))
                tasks.create_task(_run(self._body, context))
        except* _Stopped:
            self._log.info("service.drained")

    def _fail(self, error: BaseException) -> None:
        """From now on the service is not ready, and has the time of a drain to end: whether its tasks do or not."""
        self._readiness.stop()
        self._log.error("service.failing", error=str(error) or type(error).__name__)
        self._failed.set()

    async def _drain_when_stopped(self, bus: NatsBus) -> None:
        """Requests first, as they may need the tasks; then the tasks."""
        await self._stop.wait()
        self._readiness.stop()
        try:
            async with asyncio.timeout(DRAIN_REQUESTS):
                await bus.drain()
        except TimeoutError:
            self._log.warning("service.unfinished_requests", seconds=DRAIN_REQUESTS)
        raise _Stopped

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None if the service is told to stop first."""
        task, stopped = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    def _connected(self) -> bool:
        return self._bus is not None and self._bus.connected

    def _counts(self) -> Mapping[str, int]:
        return {} if self._bus is None else self._bus.counts


async def _run(body: Callable[[Context[S]], Awaitable[None]], context: Context[S]) -> None:
    await body(context)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _where() -> str:
    """Where the tasks wait that do not end: the innermost line of each that is not asyncio's own."""
    here = asyncio.current_task()
    places = {_waiting_at(task.get_coro()) for task in asyncio.all_tasks() if task is not here}
    return " ".join(sorted(places))


def _waiting_at(coroutine: object) -> str:
    place = "?"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if "/asyncio/" not in frame.f_code.co_filename:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "cr_await", None)
    return place
