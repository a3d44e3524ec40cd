"""`/metrics`, `/healthz` and `/readyz` of a service."""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from shoal_service.errors import Fatal
from shoal_service.settings import host_port

LOST_FOR_LONG = 10.0
"""Seconds without the bus after which a service is no longer ready: by then its projections may be stale."""
_CONTENT_TYPE = "Content-Type"

_ready_gauge = Gauge("shoal_ready", "1 while /readyz says so")


class Readiness:
    """Whether a service should be sent work: it said so, it is not stopping, and it has not lost the bus for long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said = False
        self._stopping = False
        self._last_seen = clock()

    def ready(self) -> None:
        """Everything answers."""
        self._said = True

    def stop(self) -> None:
        """Never ready again."""
        self._stopping = True

    def reason(self, connected: bool) -> str | None:
        """Why the service is not ready, or None if it is; `connected` tells of the bus now."""
        now = self._clock()
        if connected:
            self._last_seen = now
        if self._stopping:
            return "stopping"
        if not self._said:
            return "starting"
        lost = now - self._last_seen
        return f"the bus has been lost for {lost:.0f} s" if lost > LOST_FOR_LONG else None


class _BusCounts(Collector):
    """The bus's own counts, read when Prometheus asks."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily("shoal_bus_problems", "what went wrong on the bus, by kind", labels=["kind"])
        for kind, count in sorted(self._counts().items()):
            family.add_metric([kind], count)
        yield family


@asynccontextmanager
async def served(
    listen: str, readiness: Readiness, connected: Callable[[], bool], counts: Callable[[], Mapping[str, int]]
) -> AsyncIterator[int]:
    """Serve the three pages at `host:port` for as long as the context lasts; gives the port.

    Raises Fatal if the address cannot be had.
    """

    async def metrics(_request: web.Request) -> web.Response:
        _ready_gauge.set(readiness.reason(connected()) is None)
        return web.Response(body=generate_latest(), headers={_CONTENT_TYPE: CONTENT_TYPE_LATEST})

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = readiness.reason(connected())
        return web.Response(text=f"{reason or 'ok'}\n", status=200 if reason is None else 503)

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    collector = _BusCounts(counts)
    await runner.setup()
    try:
        host, port = host_port(listen)
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise Fatal(f"cannot serve /metrics at {listen}: {error.strerror}; set SHOAL_METRICS") from error
        REGISTRY.register(collector)
        try:
            yield int(runner.addresses[0][1])
        finally:
            REGISTRY.unregister(collector)
    finally:
        await runner.cleanup()
