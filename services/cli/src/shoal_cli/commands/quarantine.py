"""`shoal quarantine`: who wanted to be a node and was not let in, and what an operator decides about it."""

from collections.abc import Iterable

import click

from shoal_bus.api import Bus
from shoal_bus.errors import Conflict, NotFound
from shoal_cli import registry
from shoal_cli.options import examples, output, pass_session
from shoal_cli.session import Failure, Session
from shoal_cli.terminal import Format, out, plain, show_data, show_table
from shoal_model.messages import (
    DecideRequest,
    Empty,
    IdentityAlarm,
    Party,
    Quarantined,
    QuarantineReply,
    QuarantineState,
)
from shoal_model.subjects import ALARMS, Service, rpc

KEY_SHOWN = 12
"""Characters of a key in a table: enough to tell two apart, and to name one with --key."""

_which = click.option(
    "--key", default="", metavar="PREFIX", help="Beginning of the attempt's key, if the node has several attempts."
)


@click.group()
def quarantine() -> None:
    """Attempts to connect as a node that were not let in."""


@quarantine.command("list", epilog=examples("shoal quarantine list", "shoal quarantine list -o json"))
@output
@pass_session
def list_(session: Session, form: Format) -> None:
    """List what waits for a decision, and what was decided lately; the latest attempt last.

    BOUND is who speaks for the node meanwhile, and since when.
    """
    entries = session.run(lambda bus: bus.call(rpc(Service.AUTH, "quarantine"), Empty(), QuarantineReply)).entries
    if form is not Format.TABLE:
        show_data([entry.model_dump(mode="json", exclude_none=True) for entry in entries], form)
        return
    headers = ["node", "state", "address", "key", "since", "attempts", "bound", "reason"]
    show_table(headers, [_row(entry) for entry in entries])


def _row(entry: Quarantined) -> list[str]:
    attempt = entry.attempt
    return [
        entry.node,
        entry.state,
        attempt.address,
        attempt.key[:KEY_SHOWN],
        plain(attempt.at),
        str(entry.attempts),
        _told(entry.bound),
        plain(entry.reason) if entry.state is QuarantineState.WAITING else "",
    ]


def _told(party: Party | None) -> str:
    return "-" if party is None else f"{party.address} since {plain(party.at)}"


@quarantine.command(epilog=examples("shoal quarantine alarms", "shoal quarantine alarms -o json"))
@output
@pass_session
def alarms(session: Session, form: Format) -> None:
    """Show the latest alarm about each node: who wanted to be it and was refused, and who speaks for it."""
    stored = session.run(lambda bus: bus.latest(ALARMS, IdentityAlarm))
    found = sorted((alarm for _, _, alarm in stored), key=lambda alarm: alarm.at)
    if form is not Format.TABLE:
        show_data([alarm.model_dump(mode="json", exclude_none=True) for alarm in found], form)
        return
    headers = ["node", "at", "kind", "address", "key", "bound", "reason"]
    show_table(headers, [_alarm_row(alarm) for alarm in found])


def _alarm_row(alarm: IdentityAlarm) -> list[str]:
    attempt = alarm.attempt
    return [
        alarm.node,
        plain(alarm.at),
        alarm.kind,
        "-" if attempt is None else attempt.address,
        "-" if attempt is None else attempt.key[:KEY_SHOWN],
        _told(alarm.bound),
        plain(alarm.reason),
    ]


@quarantine.command(
    epilog=examples(
        "shoal quarantine admit n017",
        "shoal quarantine admit n[001-600]",
        "shoal quarantine admit n017 --key UDXA2BVG",
    )
)
@click.argument("target", metavar="NODES")
@_which
@pass_session
def admit(session: Session, target: str, key: str) -> None:
    """Let an attempt of each of NODES in, in the place of whoever speaks for it now.

    Be sure that it is the node: it gets the node's secrets. It comes in when it tries again. A node with several
    attempts is left alone until --key says which one is meant.
    """
    _decide(session, target, key, admit=True)


@quarantine.command(epilog=examples("shoal quarantine reject n017", "shoal quarantine reject n017 --key UDXA2BVG"))
@click.argument("target", metavar="NODES")
@_which
@pass_session
def reject(session: Session, target: str, key: str) -> None:
    """Refuse an attempt of each of NODES for good. Whoever speaks for it now goes on."""
    _decide(session, target, key, admit=False)


def _decide(session: Session, target: str, key: str, *, admit: bool) -> None:
    """Decide for one node after the other. Raises Failure at the end if it was not clear which attempts were meant, or
    if there was none at all.
    """
    decided, idle, problems = session.run(lambda bus: _each(bus, session, target, key, admit=admit))
    if idle and not decided and not problems:
        raise Failure(idle[0] if len(idle) == 1 else f"none of these {len(idle)} nodes has an attempt that waits")
    if problems:
        raise Failure("\n".join(problems))


async def _each(bus: Bus, session: Session, target: str, key: str, *, admit: bool) -> tuple[int, list[str], list[str]]:
    """How many were decided, and the reasons of those where nothing waits and of those where it is not clear what."""
    names, decided = await registry.nodes(bus, target), 0
    if key and len(names) > 1:
        raise click.UsageError("--key names an attempt of one node: give one")
    idle, problems = [], []
    seen = {} if key else _waiting((await bus.call(rpc(Service.AUTH, "quarantine"), Empty(), QuarantineReply)).entries)
    for name in names:
        # The attempt that waits now, by its whole key: another that comes meanwhile is not meant.
        meant = key or seen.get(name, "")
        request = DecideRequest(node=name, key=meant, admit=admit, author=session.author)
        try:
            entry = await bus.call(rpc(Service.AUTH, "decide"), request, Quarantined)
        except NotFound as error:
            idle.append(str(error))
        except Conflict as error:
            problems.append(str(error))
        else:
            decided += 1
            out(_decided(entry, admit=admit))
    return decided, idle, problems


def _waiting(entries: Iterable[Quarantined]) -> dict[str, str]:
    """The key of the one attempt that waits, of each node that has just one."""
    keys: dict[str, list[str]] = {}
    for entry in entries:
        if entry.state is QuarantineState.WAITING:
            keys.setdefault(entry.node, []).append(entry.attempt.key)
    return {node: found[0] for node, found in keys.items() if len(found) == 1}


def _decided(entry: Quarantined, *, admit: bool) -> str:
    attempt, bound = f"{entry.attempt.key[:KEY_SHOWN]} from {entry.attempt.address}", entry.bound
    if not admit:
        return f"{entry.node}: rejected {attempt}"
    place = "" if bound is None else f", in the place of {bound.key[:KEY_SHOWN]} from {bound.address}"
    return f"{entry.node}: admitted {attempt}{place}"
