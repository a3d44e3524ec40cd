"""`shoal up`: one head on one machine."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from shoal_bus import server_config
from shoal_bus.errors import BusError
from shoal_cli import changes, registry
from shoal_cli.commands.cluster import read
from shoal_cli.identity import files, make
from shoal_cli.identity.layout import Identity, Layout
from shoal_cli.options import examples
from shoal_cli.session import DEFAULT_STATE, Access, Failure, author, over_nats, write_context
from shoal_cli.terminal import note, out
from shoal_cli.up import doors, health, machine, plan
from shoal_cli.up.supervisor import Supervisor
from shoal_model.contract import OPERATOR
from shoal_model.messages import ApplyRequest
from shoal_model.records import Kind
from shoal_model.subjects import Service

_DOWN_SECONDS = 40.0


@click.command(
    epilog=examples(
        "shoal up --interface eth1",
        "shoal up --interface br0 --state /srv/shoal --config cluster.yaml",
        "SHOAL_STORE=/big/store shoal up --interface eth1",
    )
)
@click.option(
    "--interface", required=True, envvar="SHOAL_INTERFACE", metavar="IF", help="The NIC that nodes boot from."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    envvar="SHOAL_STATE",
    metavar="DIR",
    help="Where records, logs, images and trees are kept.",
)
@click.option("--config", metavar="FILE", help="A document for `shoal apply`, applied once everything answers.")
def up(interface: str, state: Path, config: str | None) -> None:
    """Run a head on this machine: the bus and all services, supervised, until SIGTERM or Ctrl-C.

    Prints `ready` on stdout when all of them answer. Logs go to stderr and to DIR/log. SHOAL_* settings in the
    environment go on to the services. The bus listens on the boot NIC's address alone.
    """
    document = read(config) if config is not None else None
    state = state.absolute()
    try:
        machine.require_root()
        machine.forbid_cores()
        address = plan.address_for(interface, machine.addresses(interface), document)
        head = plan.Head(interface, address, state)
        server = machine.nats_server()
        scripts = machine.scripts([f"shoal-{service}" for service in Service])
        machine.make_state(state)
        with machine.locked(state):
            doors.require_free(doors.needed(head, plan.listen_at(head, os.environ)))
            identity = make.prepare(Layout(state), address, socket.gethostname(), datetime.now(UTC))
            machine.adopt_store(state, server_config.CLUSTER)
            asyncio.run(_run(head, identity, server, scripts, document))
    except plan.CannotStart as error:
        raise Failure(str(error)) from error


@click.command(epilog=examples("shoal down", "shoal down --state /srv/shoal"))
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    envvar="SHOAL_STATE",
    metavar="DIR",
    help="The state directory of the head to stop.",
)
def down(state: Path) -> None:
    """Stop the head that `shoal up` runs on this machine, and return when it has ended."""
    process = machine.owner(state)
    if process is None:
        raise Failure(f"no `shoal up` runs on {state}")
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_SECONDS
    while machine.owner(state) is not None:
        if time.monotonic() > deadline:
            raise Failure(f"`shoal up` (process {process}) has not ended after {_DOWN_SECONDS:.0f} s")
        time.sleep(0.1)
    out(f"stopped the head on {state}")


def say(line: str) -> None:
    """A line for the operator. A stderr that takes none, on a full disk or without a reader, is no reason for a head to
    end; what services say is in their logs, too.
    """
    with contextlib.suppress(OSError):
        note(line)


async def _run(
    head: plan.Head, identity: Identity, server: Path, scripts: Path, document: dict[str, Any] | None
) -> None:
    config, monitor = head.state / "nats.conf", secrets.token_hex(16)
    files.place(config, plan.nats_config(head, socket.gethostname(), identity, monitor).encode(), 0o600)
    access = Access((head.nats,), identity.layout.trust, identity.layout.bus_seed(OPERATOR))
    write_context(head.state, access)
    supervisor = Supervisor(head.state / "log", say)

    async def story() -> None:
        say(f"head {head.address} on {head.interface}, state in {head.state}, bus {server}")
        await supervisor.answering([supervisor.start(plan.nats_program(server, config, os.environ, monitor))])
        programs = plan.services(head, scripts, os.environ, identity)
        await supervisor.answering([supervisor.start(program) for program in programs])
        out("ready")
        if document is not None:
            await _apply(access, document)
        await _warn(head, access)
        await health.watch(supervisor.processes, head.state, say)

    try:
        await supervisor.live(story)
    finally:
        await supervisor.drain()


async def _warn(head: plan.Head, access: Access) -> None:
    """Say so where the records place the head elsewhere: it runs, and no node would find it."""
    try:
        async with over_nats(access)() as bus:
            networks = (await registry.records(bus, Kind.NETWORK)).records
    except BusError as error:
        say(f"could not compare the head's address with the records: {error}")
        return
    told = plan.elsewhere(head, networks)
    if told is not None:
        say(told)


async def _apply(access: Access, document: dict[str, Any]) -> None:
    try:
        async with over_nats(access)() as bus:
            reply = await registry.apply(bus, ApplyRequest(document=document, author=author()))
    except BusError as error:
        raise Failure(f"the configuration was not applied: {error}") from error
    for line in changes.lines(reply.changes):
        say(line)
    say(changes.summary(reply.changes, dry_run=False, revision=reply.revision))
