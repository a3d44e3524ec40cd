"""A cluster in memory, for tests of the command line: each verb answers what a test says."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel

from shoal_bus.api import Bus, Endpoint
from shoal_bus.errors import BusError, NotFound
from shoal_bus.fakes import MemoryBus
from shoal_cli.main import run
from shoal_cli.session import Session
from shoal_model.messages import RecordsReply, RecordsRequest
from shoal_model.records import Kind
from shoal_model.subjects import Service, rpc

Answer = BaseModel | BusError | Callable[[Any], BaseModel]


class FakeCluster:
    """`records` answer `list`; `answers` map (service, verb) to (request type, answer)."""

    def __init__(self, records: dict[Kind, dict[str, dict[str, Any]]] | None = None) -> None:
        self.records = records or {}
        self.requests: list[BaseModel] = []
        self._answers: dict[str, tuple[type[BaseModel], Answer]] = {}
        self.on_connect: Callable[[Bus], Awaitable[None]] | None = None
        self._emits: dict[str, Callable[[Bus], Awaitable[None]]] = {}
        self.answer(Service.REGISTRY, "list", RecordsRequest, self._list)

    def answer(self, service: Service, verb: str, request: type[BaseModel], answer: Answer) -> None:
        """Say how a verb is answered from now on."""
        self._answers[rpc(service, verb)] = (request, answer)

    def emit_on(
        self,
        service: Service,
        verb: str,
        request: type[BaseModel],
        answer: BaseModel,
        emit: Callable[[Bus], Awaitable[None]],
    ) -> None:
        """Answer a verb and emit events thereupon."""
        self.answer(service, verb, request, answer)
        self._emits[rpc(service, verb)] = emit

    def shoal(self, *arguments: str) -> int:
        """Run a command line against this cluster; its exit status."""
        return run(arguments, Session(self._connect, "tester@here"))

    def asked(self, kind: type[BaseModel]) -> list[Any]:
        """The requests of one type so far."""
        return [request for request in self.requests if isinstance(request, kind)]

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Bus]:
        bus = MemoryBus()
        endpoints = [
            Endpoint(subject, kind, self._handler(bus, subject)) for subject, (kind, _) in self._answers.items()
        ]
        serving = await bus.serve("everyone", "1.0.0", endpoints)
        client = bus.client()
        if self.on_connect is not None:
            await self.on_connect(bus)
        try:
            yield client
        finally:
            await client.close()
            await serving.stop()
            await bus.close()

    def _handler(self, bus: Bus, subject: str) -> Callable[[str, Any], Awaitable[BaseModel]]:
        async def handle(_: str, request: BaseModel) -> BaseModel:
            self.requests.append(request)
            answer = self._answers[subject][1]
            if subject in self._emits:
                await self._emits[subject](bus)
            if isinstance(answer, BusError):
                raise answer
            return answer if isinstance(answer, BaseModel) else answer(request)

        return handle

    def _list(self, request: RecordsRequest) -> RecordsReply:
        found = self.records.get(request.kind, {})
        if request.name is not None and request.name not in found:
            raise NotFound(f"there is no {request.kind} {request.name!r}")
        return RecordsReply(records=found if request.name is None else {request.name: found[request.name]}, revision=7)
