"""`shoal boot arm|disarm|armed`: which boots are expected, and so let in."""

import re
from datetime import datetime, timedelta

import click

from shoal_bus.api import Bus
from shoal_cli import nodesets, registry
from shoal_cli.options import examples, output, pass_session
from shoal_cli.session import Session
from shoal_cli.terminal import Format, note, out, plain, safe, show_data, show_table
from shoal_model.messages import Armed, ArmedReply, ArmRequest, Empty, QuarantineReply, QuarantineState
from shoal_model.subjects import Service, rpc

_MANY = 60.0
_LONGEST = timedelta(days=7)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _span(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    """A callback for an option that is a length of time: `90s`, `30m`, `2h`, `1d`."""
    found = re.fullmatch(r"([0-9]{1,7})([smhd])", value)
    span = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta()
    if not timedelta() < span <= _LONGEST:
        raise click.BadParameter(f"{safe(value)!r} is no time of {_LONGEST.days}d at most: write 90s, 30m, 2h or 1d")
    return span


@click.command(epilog=examples("shoal boot arm n[001-100]", "shoal boot arm @compute --for 2h"))
@click.argument("target", metavar="NODES")
@click.option(
    "--for", "span", callback=_span, default="30m", show_default=True, metavar="TIME", help="How long to expect them."
)
@pass_session
def arm(session: Session, target: str, span: timedelta) -> None:
    """Expect one boot of each of NODES from now on: it is let in, with the node's secrets.

    Say it before a node is switched on or reset. A node that reboots by itself says so to the head while it still runs,
    and needs no arming; neither does one with `admission: always`. The last word counts: a
    shorter time shortens an earlier one.
    """
    armed, waiting = session.run(lambda bus: _expected(bus, session, target, span))
    for until in sorted({node.until for node in armed}):
        out(f"armed until {plain(until)}: {nodesets.fold(node.node for node in armed if node.until == until)}")
    if waiting:
        held = nodesets.fold(waiting)
        note(f"{held} tried before, and wait in quarantine: if that was them, `shoal quarantine admit {held}`")


@click.command(epilog=examples("shoal boot disarm n[001-100]"))
@click.argument("target", metavar="NODES")
@pass_session
def disarm(session: Session, target: str) -> None:
    """Expect no boot of NODES any more. Nodes that run are not touched."""
    chosen, _ = session.run(lambda bus: _arm(bus, session, target, timedelta()))
    out(f"disarmed: {nodesets.fold(chosen)}")


@click.command(epilog=examples("shoal boot armed"))
@output
@pass_session
def armed(session: Session, form: Format) -> None:
    """List the nodes whose boot is expected, the first to end first."""
    reply = session.run(lambda bus: bus.call(rpc(Service.AUTH, "armed"), Empty(), ArmedReply))
    nodes = sorted(reply.nodes, key=_end)
    if form is Format.TABLE:
        show_table(["node", "until", "by"], [[node.node, plain(node.until), plain(node.author)] for node in nodes])
    else:
        show_data([node.model_dump(mode="json") for node in nodes], form)


def _end(node: Armed) -> tuple[datetime, str]:
    return node.until, node.node


async def _expected(bus: Bus, session: Session, target: str, span: timedelta) -> tuple[list[Armed], list[str]]:
    """The nodes that are armed now, and those of them with an attempt in quarantine."""
    armed = (await _arm(bus, session, target, span))[1].nodes
    held = (await bus.call(rpc(Service.AUTH, "quarantine"), Empty(), QuarantineReply)).entries
    names = {entry.node for entry in held if entry.state is QuarantineState.WAITING}
    return armed, sorted(names.intersection(node.node for node in armed))


async def _arm(bus: Bus, session: Session, target: str, span: timedelta) -> tuple[list[str], ArmedReply]:
    """The nodes that were meant, and those of them that are armed now."""
    chosen = await registry.nodes(bus, target)
    request = ArmRequest(nodes=chosen, seconds=int(span.total_seconds()), author=session.author)
    return chosen, await bus.call(rpc(Service.AUTH, "arm"), request, ArmedReply, timeout=_MANY)
