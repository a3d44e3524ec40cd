"""A registry in this process, and what operators and services ask it for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel

from shoal_bus.api import Bus, Store
from shoal_bus.codec import unpack
from shoal_identity.trust import Trust
from shoal_model import messages as m
from shoal_model.records import Kind, Node, parse_key
from shoal_model.subjects import Service, rpc
from shoal_registry import claims, service

R = TypeVar("R", bound=BaseModel)
Clients = Callable[[], Awaitable[Bus]]

DOCUMENT: dict[str, Any] = {
    "networks": {"boot": {"cidr": "10.77.0.0/16", "head": "10.77.0.1", "boot": True}},
    "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
    "rootfs": {"site": {}},
    "templates": {"compute": {"image": "compute"}},
    "nodes": {"n001": {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", "template": "compute"}},
}


@asynccontextmanager
async def registry(bus: Bus, trust: Trust | None = None) -> AsyncIterator[None]:
    """A registry that answers, until the block ends."""
    answers = asyncio.Event()

    async def live() -> None:
        async with asyncio.TaskGroup() as tasks:
            await service.start(bus, tasks, lambda: datetime.now(UTC), "0", trust)
            answers.set()

    task = asyncio.create_task(live())
    ready = asyncio.create_task(answers.wait())
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    assert answers.is_set(), "the registry did not start"
    yield
    assert not task.done(), "the registry ended by itself"
    await bus.drain()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ask(bus: Bus, verb: str, request: BaseModel, reply: type[R], node: str | None = None) -> R:
    """What the registry answers to this verb."""
    return await bus.call(rpc(Service.REGISTRY, verb, node), request, reply, timeout=30)


async def apply(bus: Bus, document: dict[str, Any] = DOCUMENT, *, prune: bool = False) -> m.ChangeReply:
    """Apply a document, as ada."""
    return await ask(bus, "apply", m.ApplyRequest(document=document, author="ada", prune=prune), m.ChangeReply)


async def change(bus: Bus, *operations: m.Operation, expected_revision: int | None = None) -> m.ChangeReply:
    """Carry out these operations, as ada."""
    request = m.ChangeRequest(operations=list(operations), author="ada", expected_revision=expected_revision)
    return await ask(bus, "change", request, m.ChangeReply)


def put(kind: Kind, name: str, /, **record: object) -> m.Operation:
    """Have this record."""
    return m.Operation(action=m.Action.PUT, kind=kind, name=name, record=record)


def delete(kind: Kind, name: str) -> m.Operation:
    """Have this record no more."""
    return m.Operation(action=m.Action.DELETE, kind=kind, name=name)


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as it holds; fail after 10 s."""
    async with asyncio.timeout(10):
        while not await check():  # noqa: ASYNC110 - nothing tells us when it does
            await asyncio.sleep(0.01)


async def check_claims(store: Store) -> dict[str, Node]:
    """The nodes in the bucket; every claim is a node's, and every node has its claims."""
    entries = [entry for entry in await store.load() if entry.value is not None]
    nodes = {
        parse_key(entry.key)[1]: Node.model_validate(unpack(entry.value or b""))
        for entry in entries
        if entry.key.startswith("node.")
    }
    held = {entry.key: unpack(entry.value or b"")["node"] for entry in entries if entry.key.startswith("claim.")}
    assert held == {claim: name for name, node in nodes.items() for claim in claims.of(name, node)}
    return nodes
