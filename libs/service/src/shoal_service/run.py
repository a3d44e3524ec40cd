"""The life of a service: settings, logs, health pages, bus, tasks, drain."""

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar

import structlog
from structlog.stdlib import BoundLogger

from shoal_bus.api import Bus
from shoal_bus.errors import NotPermitted, Unavailable
from shoal_bus.nats import NatsBus
from shoal_bus.servers import without_secrets
from shoal_identity.trust import Trust
from shoal_model.subjects import Service
from shoal_service import health, logs, proof
from shoal_service.errors import Fatal
from shoal_service.settings import ServiceSettings, parse
from shoal_service.tasks import Stopped, Tasks, leaves, where

S = TypeVar("S", bound=ServiceSettings)
T = TypeVar("T")

DRAIN_REQUESTS = 4.0
"""Seconds for the requests that run when a service is told to stop; then its tasks are cancelled."""
DRAIN_ALL = 9.0
"""Seconds for everything; then the process ends as it is."""


@dataclass(frozen=True)
class Context(Generic[S]):
    """What a service's body works with; `trust` is what is in the file that `SHOAL_CA` names."""

    service: Service
    settings: S
    bus: Bus
    tasks: asyncio.TaskGroup
    log: BoundLogger
    readiness: health.Readiness
    trust: Trust | None

    def ready(self) -> None:
        """Say that everything answers: `/readyz` becomes 200. What the bus has refused until now ends the service."""
        self.readiness.ready()
        self.log.info("service.ready")
        self.tasks.create_task(_permitted(self.bus))

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

    `body` gets a `Context` and may return: what it set up goes on. Bad settings, and files that they name in vain, end
    the program with status 2.
    """
    parsed = parse(service, settings)
    logs.configure(parsed.log_level, as_json=parsed.log_json)
    log: BoundLogger = structlog.stdlib.get_logger(f"shoal.{service}")
    _limit()
    try:
        own = proof.read(service, parsed)
    except Fatal as error:
        log.error("service.failed", error=str(error))
        sys.exit(2)
    sys.exit(asyncio.run(_Life(service, parsed, body, log, own).run()))


def _limit() -> None:
    """As many open files as we may: the usual 1024 are as few for the sake of programs that use select(2). And no
    core: our key would be in it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Life(Generic[S]):
    """A service from its start to its end."""

    def __init__(
        self,
        service: Service,
        settings: S,
        body: Callable[[Context[S]], Awaitable[None]],
        log: BoundLogger,
        own: proof.Proof,
    ) -> None:
        self._service = service
        self._settings = settings
        self._body = body
        self._log = log
        self._proof = own
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
        if settings.key is None:
            self._log.warning(
                "service.unauthenticated", hint="whoever reaches the bus may do what we do: set SHOAL_KEY"
            )
        life = asyncio.create_task(self._live())
        ends = [asyncio.create_task(event.wait()) for event in (self._stop, self._failed)]
        await asyncio.wait({life, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if not life.done():
            self._log.info("service.stopping")
            await asyncio.wait({life}, timeout=DRAIN_ALL)
        if not life.done():
            self._log.error("service.stuck", seconds=DRAIN_ALL, at=where())
            logging.shutdown()
            os._exit(1)  # asyncio.run() would wait for what is stuck
        self._log.info("service.end", status=life.result())
        return life.result()

    async def _live(self) -> int:
        try:
            async with health.served(self._settings.metrics, self._readiness, self._connected, self._counts):
                bus = await self._unless_stopped(self._connect())
                if bus is None:
                    return 0
                self._bus = bus
                try:
                    await self._unless_stopped(bus.prepare())
                    await self._work(bus)
                finally:
                    await bus.close()
        except Exception as error:
            for leaf in leaves(error):
                told = None if isinstance(leaf, Fatal | NotPermitted) else leaf
                hint = "; is SHOAL_KEY the key of this service?" if isinstance(leaf, NotPermitted) else ""
                self._log.error("service.failed", error=f"{str(leaf) or type(leaf).__name__}{hint}", exc_info=told)
            return 1
        return 0

    async def _connect(self) -> NatsBus:
        return await NatsBus.connect(
            self._settings.nats,
            name=f"shoal-{self._service}",
            credentials=self._proof.credentials,
            creates=self._service is Service.REGISTRY,
        )

    async def _work(self, bus: NatsBus) -> None:
        try:
            async with Tasks(self._fail) as tasks:
                context = Context(
                    self._service, self._settings, bus, tasks, self._log, self._readiness, self._proof.trust
                )
                tasks.create_task(self._drain_when_stopped(bus))
                tasks.create_task(_run(self._body, context))
        except* Stopped:
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
        raise Stopped

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


async def _permitted(bus: Bus) -> None:
    """Raise NotPermitted if the bus has refused a message: whoever sent it was not told."""
    try:
        await bus.flush()
    except Unavailable:
        return  # lost again: the next connection has not refused anything
