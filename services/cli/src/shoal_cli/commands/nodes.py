"""`shoal node show|status` and `shoal discovered`: what a node is to be, what it is, and machines that are none yet."""

from collections.abc import Sequence
from typing import Any

import click

from shoal_bus.api import Bus
from shoal_bus.errors import NotFound
from shoal_cli import additions, fields, nodesets, registry
from shoal_cli.options import dry_run, examples, output, pass_session
from shoal_cli.session import Session
from shoal_cli.terminal import Format, out, plain, safe, show_data, show_table, size
from shoal_model import names
from shoal_model.messages import (
    ChangeReply,
    EffectiveValue,
    Empty,
    Machine,
    MachinesReply,
    NodeState,
    NodeStatus,
    Operation,
    RecordsReply,
    ShowNodeReply,
    ShowNodeRequest,
    StatusReply,
    StatusRequest,
)
from shoal_model.records import Kind
from shoal_model.subjects import Service, rpc

_NAMED = 16
_ARCHITECTURES = {0: "BIOS", 6: "UEFI ia32", 7: "UEFI x64", 9: "UEFI x64", 11: "UEFI arm64", 16: "UEFI x64 HTTP"}
"""DHCP option 93, as registered with IANA (RFC 5970)."""


@click.command()
@click.argument("target", metavar="NODES")
@output
@pass_session
def show(session: Session, target: str, form: Format) -> None:
    """Show nodes with every value decided, where each value comes from, and in brackets what it overrides."""

    async def body(bus: Bus) -> list[ShowNodeReply]:
        subject = rpc(Service.REGISTRY, "show-node")
        chosen = await registry.nodes(bus, target)
        return [await bus.call(subject, ShowNodeRequest(node=name), ShowNodeReply) for name in chosen]

    replies = session.run(body)
    if form is not Format.TABLE:
        show_data({reply.node: [value.model_dump() for value in reply.values] for reply in replies}, form)
        return
    rows = [[reply.node, *row] for reply in replies for value in reply.values for row in _decided(value)]
    show_table(["node", "field", "value", "from"], rows)


def _decided(value: EffectiveValue) -> list[list[str]]:
    """Field, value and source, and beneath it what the levels farther from the node say."""
    rows = [[safe(value.field), plain(value.value), safe(value.source)]]
    return rows + [["", f"({plain(hidden.value)}", f"{safe(hidden.source)})"] for hidden in value.overridden]


@click.command()
@click.argument("target", metavar="[NODES]", required=False)
@output
@pass_session
def status(session: Session, target: str | None, form: Format) -> None:
    """Show how nodes are: up, booting and where, failed, or not heard of.

    The exit status is 1 if any of them failed or was lost.
    """

    async def body(bus: Bus) -> list[NodeStatus]:
        chosen = await registry.nodes(bus, target)
        reply = await bus.call(rpc(Service.FLEET, "status"), StatusRequest(nodes=chosen), StatusReply)
        known = {state.node: state for state in reply.nodes}
        return [known.get(name) or NodeStatus(node=name, state=NodeState.UNKNOWN) for name in chosen]

    states = session.run(body)
    if form is Format.TABLE:
        show_table(["node", "state", "since", "stage", "load", "memory", "image"], [_status(s) for s in states])
    else:
        show_data([state.model_dump(mode="json", exclude_none=True) for state in states], form)
    if any(state.state in (NodeState.FAILED, NodeState.LOST) for state in states):
        click.get_current_context().exit(1)


def _status(state: NodeStatus) -> list[str]:
    beat = state.heartbeat
    colour = {NodeState.UP: "green", NodeState.FAILED: "red", NodeState.LOST: "red"}.get(state.state, "yellow")
    row = [state.node, click.style(state.state, fg=colour), plain(state.since), plain(state.stage)]
    if beat is None:
        return [*row, "-", "-", "-"]
    used = f"{size(beat.memory_total - beat.memory_available)} of {size(beat.memory_total)}"
    return [*row, f"{beat.load:.2f}", used, (beat.image or "-")[:12]]


@click.group()
def discovered() -> None:
    """Machines that asked for an address and are not registered."""


@discovered.command("list")
@output
@pass_session
def discovered_list(session: Session, form: Format) -> None:
    """List discovered machines, the last seen first."""
    machines = session.run(_machines)
    if form is not Format.TABLE:
        show_data([machine.model_dump(mode="json", exclude_none=True) for machine in machines], form)
        return
    rows = [
        [
            machine.mac,
            plain(machine.first_seen),
            plain(machine.last_seen),
            _ARCHITECTURES.get(machine.architecture or 0, str(machine.architecture))
            if machine.architecture is not None
            else "-",
            plain(machine.vendor_class),
            plain(machine.relay),
        ]
        for machine in machines
    ]
    show_table(["mac", "first seen", "last seen", "firmware", "vendor class", "relay"], rows)


@discovered.command(
    "register",
    epilog=examples(
        "shoal discovered register n[001-004] --address 10.77.0.11 template=compute",
        "shoal discovered register n017 --address 10.77.0.27 --mac 52:54:00:77:00:27",
    ),
)
@click.argument("target", metavar="NODES")
@click.argument("assignments", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--address", required=True, metavar="IP", help="Address of the first node; the others count up.")
@click.option("--mac", "macs", multiple=True, metavar="MAC", help="Which machine; repeat it, in the nodes' order.")
@dry_run
@pass_session
def discovered_register(
    session: Session, target: str, assignments: Sequence[str], address: str, macs: Sequence[str], dry_run: bool
) -> None:
    """Register discovered machines as NODES, in the order in which they were first seen.

    All are registered by one change, or none. FIELD=VALUE gives fields that all of them get.
    """
    wanted = registry.expand(target)
    try:
        addresses = additions.counting_up(address, len(wanted))
    except fields.FieldError as error:
        raise click.UsageError(safe(str(error))) from error

    async def body(bus: Bus) -> ChangeReply:
        machines = choose(await _machines(bus), macs, wanted)
        records = [
            _record({"mac": mac, "address": ip}, assignments) for mac, ip in zip(machines, addresses, strict=True)
        ]

        def edit(now: RecordsReply) -> list[Operation]:
            taken = [name for name in wanted if name in now.records]
            if taken:
                raise click.UsageError(f"registered already: {nodesets.fold(taken)}")
            return [registry.put(Kind.NODE, name, record) for name, record in zip(wanted, records, strict=True)]

        return await registry.read_and_change(bus, Kind.NODE, session.author, edit, dry_run=dry_run)

    registry.report(session.run(body), dry_run=dry_run)
    if not dry_run:
        out("they get their address the next time they ask: reboot them, or wait for their firmware to try again")


def choose(machines: Sequence[Machine], macs: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The MACs for the wanted nodes: the ones given, else the discovered ones in the order of their first request.

    Raises click.UsageError if their numbers differ, NotFound for a MAC that was not discovered.
    """
    if macs:
        try:
            chosen = [str(names.mac(mac)) for mac in macs]
        except ValueError as error:
            raise click.UsageError(safe(str(error))) from error
        strangers = set(chosen) - {machine.mac for machine in machines}
        if strangers:
            raise NotFound(f"not among the discovered machines: {', '.join(sorted(strangers))}; {_known(machines)}")
        if len(chosen) != len(wanted):
            raise click.UsageError(f"{len(wanted)} nodes and {len(chosen)} --mac: give one for each node")
        return chosen
    if len(machines) < len(wanted):
        raise NotFound(
            f"{len(wanted)} nodes to register, {len(machines)} machines discovered so far; {_known(machines)}. Name "
            "fewer nodes, or switch the others on (boot from the network) and wait for `shoal discovered list` to show "
            "them; a machine whose MAC you know needs no discovery: `shoal node add`"
        )
    if len(machines) > len(wanted):
        raise click.UsageError(
            f"{len(machines)} machines are discovered and {len(wanted)} nodes named: name as many, or pick with --mac"
        )
    return [machine.mac for machine in sorted(machines, key=lambda machine: machine.first_seen)]


def _known(machines: Sequence[Machine]) -> str:
    """The machines by MAC, the first seen first; of many, some."""
    macs = [machine.mac for machine in sorted(machines, key=lambda machine: machine.first_seen)]
    more = f" and {len(macs) - _NAMED} more" if len(macs) > _NAMED else ""
    return f"discovered: {', '.join(macs[:_NAMED]) or 'none'}{more}"


async def _machines(bus: Bus) -> list[Machine]:
    return (await bus.call(rpc(Service.REGISTRY, "discovered"), Empty(), MachinesReply)).machines


def _record(base: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    try:
        return fields.merge(base, fields.parse(assignments))
    except fields.FieldError as error:
        raise click.UsageError(safe(str(error))) from error
