"""What the commands ask of the registry: records, changes, node sets by template."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click

from shoal_bus.api import Bus
from shoal_bus.errors import Conflict, NotFound
from shoal_cli import changes, nodesets
from shoal_cli.session import Failure
from shoal_cli.terminal import interactive, note, out, safe
from shoal_model import names
from shoal_model.messages import (
    Action,
    ApplyRequest,
    ChangeReply,
    ChangeRequest,
    Operation,
    RecordsReply,
    RecordsRequest,
)
from shoal_model.records import Kind
from shoal_model.subjects import Service, rpc

_LONG = 60.0
_ATTEMPTS = 5


async def records(bus: Bus, kind: Kind, name: str | None = None) -> RecordsReply:
    """All records of a kind, or the one of this name. Raises NotFound."""
    return await bus.call(
        rpc(Service.REGISTRY, "list"), RecordsRequest(kind=kind, name=name), RecordsReply, timeout=_LONG
    )


async def change(bus: Bus, request: ChangeRequest) -> ChangeReply:
    """Have operations stored, all or none."""
    return await bus.call(rpc(Service.REGISTRY, "change"), request, ChangeReply, timeout=_LONG)


async def apply(bus: Bus, request: ApplyRequest) -> ChangeReply:
    """Have a document stored."""
    return await bus.call(rpc(Service.REGISTRY, "apply"), request, ChangeReply, timeout=_LONG)


async def nodes(bus: Bus, text: str | None, known: RecordsReply | None = None) -> list[str]:
    """The nodes of a set, every registered one if there is none. Raises NotFound for a node that is not registered."""
    known = known or await records(bus, Kind.NODE)
    if text is None:
        return sorted(known.records)
    groups: dict[str, list[str]] = {"*": sorted(known.records)}
    for name, record in known.records.items():
        if record.get("template"):
            groups.setdefault(str(record["template"]), []).append(name)
    wanted = expand(text, groups)
    strangers = [name for name in wanted if name not in known.records]
    if strangers:
        raise NotFound(f"not registered: {nodesets.fold(strangers)}; {nodesets.hint(strangers, known.records)}")
    return wanted


async def node(bus: Bus, text: str) -> str:
    """The one node of a set. Raises NotFound as `nodes` does."""
    found = await nodes(bus, text)
    if len(found) > 1:
        raise click.UsageError(f"{safe(text)} are {len(found)} nodes ({nodesets.fold(found)}): name one of them")
    return found[0]


def named(text: str) -> str:
    """`text` if it can be the name of a record; else an error of usage."""
    try:
        return names.name(text)
    except ValueError as error:
        raise click.UsageError(safe(str(error))) from error


def expand(text: str, groups: dict[str, list[str]] | None = None) -> list[str]:
    """`nodesets.expand` with its error as one of usage."""
    try:
        return nodesets.expand(text, groups)
    except nodesets.NodeSetError as error:
        raise click.UsageError(safe(str(error))) from error


async def read_and_change(
    bus: Bus,
    kind: Kind,
    author: str,
    edit: Callable[[RecordsReply], list[Operation]],
    *,
    dry_run: bool,
) -> ChangeReply:
    """Change records according to what they are now; read and decide again when someone else was quicker.

    A change is stored only if nothing moved between reading and storing, so nobody overwrites what he has not seen.
    """
    for attempt in range(_ATTEMPTS):
        now = await records(bus, kind)
        request = ChangeRequest(operations=edit(now), author=author, dry_run=dry_run, expected_revision=now.revision)
        try:
            return await change(bus, request)
        except Conflict:
            # A conflict of content stays one; only a head that moved on is worth another look.
            if attempt == _ATTEMPTS - 1 or (await records(bus, kind)).revision == now.revision:
                raise
            await asyncio.sleep(0.05 * 2**attempt)
    raise AssertionError("unreachable")


def delete(kind: Kind, name: str) -> Operation:
    """The operation that removes a record."""
    return Operation(action=Action.DELETE, kind=kind, name=name)


def put(kind: Kind, name: str, record: dict[str, Any]) -> Operation:
    """The operation that stores a record whole."""
    return Operation(action=Action.PUT, kind=kind, name=name, record=record)


def report(reply: ChangeReply, *, dry_run: bool) -> None:
    """Print a change, field by field, and its summary."""
    for line in changes.lines(reply.changes):
        out(line)
    out(changes.summary(reply.changes, dry_run=dry_run, revision=reply.revision))


async def confirm_removals(preview: Callable[[], Awaitable[ChangeReply]], *, yes: bool) -> ChangeReply | None:
    """See what a change would remove and ask. The dry run's reply if it may go ahead, None if the operator said no.

    Raises Failure if there is nobody to ask.
    """
    reply = await preview()
    gone = changes.removed(reply.changes)
    if yes or not gone:
        return reply
    for line in changes.lines(reply.changes):
        note(line)
    if not interactive():
        raise Failure(f"this removes {len(gone)} records, first {gone[0]}: say -y if that is meant")
    return reply if await asyncio.to_thread(click.confirm, f"Remove {len(gone)} records?", False) else None
