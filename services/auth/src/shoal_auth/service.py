"""auth at work: its three connections, what it knows, and the tasks around it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from shoal_auth import metrics
from shoal_auth.answer import Seal
from shoal_auth.book import Book
from shoal_auth.callout import Callout, Parts
from shoal_auth.connections import Connections
from shoal_auth.handlers import Handlers
from shoal_auth.housekeeping import Housekeeping
from shoal_auth.ledger import Ledger
from shoal_auth.outbox import Outbox
from shoal_auth.proofs import BootTokens, BoundKey, FormerKey
from shoal_auth.quarantine import Quarantine
from shoal_auth.recorded import Recorded
from shoal_auth.sweeper import Sweeper
from shoal_bus.api import Bus, Store
from shoal_bus.connection import Connection, Credentials, connect
from shoal_identity.keys import Key
from shoal_identity.trust import Trust
from shoal_model.records import Cluster
from shoal_model.subjects import IDENTITY_BUCKET, Service, inbox
from shoal_service.records import RecordsView

_LAST_WORDS = 2.0


@dataclass(frozen=True)
class Access:
    """How auth reaches the servers beside its own bus: its keys in account AUTH and in account SYS."""

    servers: Sequence[str]
    callout: Key
    system: Key
    trust: Trust | None = None


@dataclass(frozen=True)
class Duty:
    """What auth goes by: who signs its answers, whose boot tokens count, and what time it is."""

    seal: Seal
    boot_keys: Sequence[str]
    now: Callable[[], datetime]
    version: str


@asynccontextmanager
async def answering(bus: Bus, access: Access, duty: Duty) -> AsyncIterator[None]:
    """auth answers for as long as the context lasts; at its end, the questions that run are answered first."""
    store = await bus.store(IDENTITY_BUCKET)
    async with (
        RecordsView.open(bus) as view,
        await _connection(access, access.callout, "callout") as callout,
        await _connection(access, access.system, "system") as system,
        asyncio.TaskGroup() as tasks,
    ):
        for account, connection in (("AUTH", callout), ("SYS", system)):
            metrics.CONNECTED.labels(account).set_function(partial(_up, connection))
        crew = _Crew(bus, store, view, system, duty)
        running = [tasks.create_task(work) for work in crew.works()]
        try:
            await crew.book.loaded()
            await bus.serve(Service.AUTH, duty.version, crew.handlers.endpoints())
            answers = Callout(callout, duty.seal, crew.parts)
            await answers.open()
            try:
                yield
            finally:
                await answers.close()
                await crew.outbox.close(_LAST_WORDS)
        finally:
            for task in running:
                task.cancel()


class _Crew:
    """The parts of auth that run, and what they share."""

    def __init__(self, bus: Bus, store: Store, view: RecordsView, system: Connection, duty: Duty) -> None:
        def cluster() -> Cluster:
            return view.snapshot.cluster

        self.book = Book()
        self.outbox = Outbox(bus)
        self._store = store
        self._ledger = Ledger(store, self.book)
        self._quarantine = Quarantine(self._ledger, time.monotonic)
        self._sweeper = Sweeper(Connections(system), self.book, store, cluster)
        self._housekeeping = Housekeeping(self._ledger, self.outbox, cluster, duty.now)
        self.book.on_change(self._sweeper.changed)
        view.on_change(self._sweeper.recorded)
        view.on_change(self._housekeeping.changed)
        recorded = Recorded(cluster)
        view.on_change(recorded.changed)
        self.handlers = Handlers(self._ledger, self._sweeper, self.outbox, recorded, duty.now)
        self.parts = Parts(
            cluster=cluster,
            proofs=(BoundKey(), BootTokens(duty.boot_keys), FormerKey()),
            ledger=self._ledger,
            quarantine=self._quarantine,
            outbox=self.outbox,
            now=duty.now,
            clock=time.monotonic,
        )

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for ever."""
        return [
            self.book.follow(self._store),
            self._ledger.run(),
            self.outbox.run(),
            self._quarantine.run(),
            self._after_loading(self._sweeper.run),
            self._after_loading(self._housekeeping.run),
        ]

    async def _after_loading(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self.book.loaded()
        await run()


def _up(connection: Connection) -> float:
    return float(connection.connected)


async def _connection(access: Access, key: Key, role: str) -> Connection:
    tls = access.trust.client_context() if access.trust is not None else None
    credentials = Credentials(key=key, tls=tls, inbox_prefix=inbox(Service.AUTH))
    return await connect(access.servers, name=f"shoal-auth {role}", credentials=credentials)
