"""`shoal boot watch` and `shoal boot why`: boots as they happen, and why one did not arrive. See `arming` for the rest
of `shoal boot`.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from shoal_bus.api import Bus
from shoal_bus.errors import BusError, NotFound
from shoal_cli import nodesets, registry, timeline
from shoal_cli.commands import arming
from shoal_cli.options import examples, output, pass_session, seconds
from shoal_cli.session import Failure, Session
from shoal_cli.terminal import Format, local, out, safe, safe_lines, show_data, show_table
from shoal_cli.watching import Watch, board, line
from shoal_model.messages import (
    ArmedReply,
    Boot,
    BootEvent,
    BootsReply,
    BootsRequest,
    Empty,
    LogReply,
    LogRequest,
    ShowNodeReply,
    ShowNodeRequest,
    Status,
)
from shoal_model.records import Admission
from shoal_model.subjects import BOOT_EVENTS, Service, Stage, boot_event, rpc


@click.group()
def boot() -> None:
    """Boots: which are expected, how they go, and why one did not arrive."""


for _command in (arming.arm, arming.disarm, arming.armed):
    boot.add_command(_command)


@boot.command(
    epilog=examples("shoal boot watch n[001-100]", "shoal boot watch n017 --until systemd.running --timeout 300")
)
@click.argument("target", metavar="[NODES]", required=False)
@click.option(
    "--until", type=click.Choice([s.value for s in Stage]), help="End when all NODES got here, or failed for good."
)
@click.option("--timeout", type=float, callback=seconds, metavar="SECONDS", help="With --until: give up after so long.")
@pass_session
def watch(session: Session, target: str | None, until: str | None, timeout: float | None) -> None:
    """Show the stages of boots as they come, until Ctrl-C or --until.

    With --until, the exit status is 1 if a node failed or did not arrive in time.
    """

    async def body(bus: Bus) -> list[str]:
        chosen = await registry.nodes(bus, target)
        stage = Stage(until) if until else None
        return await follow(bus, chosen, until=stage, timeout=timeout if until else None)

    missing = session.run(body)
    if missing:
        raise Failure(f"did not reach {until}: {nodesets.fold(missing)}; `shoal boot why NODE` tells more")


async def follow(
    bus: Bus,
    chosen: list[str],
    *,
    until: Stage | None,
    timeout: float | None,
    began: Callable[[], None] = lambda: None,
) -> list[str]:
    """Show the boots of these nodes: a table that is redrawn on a terminal, a line for each event elsewhere.

    `began` is called when events are being heard. Returns the nodes that did not reach `until`: failed and no more was
    heard, or `timeout` seconds are over. Without `until` it goes on for ever.
    """
    now = asyncio.get_running_loop().time
    watch_, only = Watch(tuple(chosen)), set(chosen)
    console = Console()
    show = _Board(console, watch_, chosen) if console.is_terminal else _Lines()
    try:
        async with asyncio.timeout(timeout) as limit, bus.events(BOOT_EVENTS, BootEvent) as events:
            deadline = limit.when()
            with show:
                began()
                async for _, subject, event in events:
                    # Nodes may publish on their own subjects alone: what another subject says of one is not its word.
                    if event.node in only and subject == boot_event(event.node, event.stage):
                        watch_.hear(event, now())
                        show.hear(event)
                    if until is not None:
                        limit.reschedule(_earlier(deadline, watch_.settles(until)))
    except TimeoutError:
        pass  # what is missing then is the answer
    return watch_.missing(until) if until is not None else []


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((time for time in (one, other) if time is not None), default=None)


class _Lines:
    """Events as lines, for pipes and logs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def hear(self, event: BootEvent) -> None:
        if event.stage is not Stage.IMAGE_PROGRESS:
            out(line(event))


class _Board:
    """Events as a table that is redrawn."""

    def __init__(self, console: Console, watch_: Watch, chosen: list[str]) -> None:
        self._watch, self._chosen = watch_, chosen
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def hear(self, event: BootEvent) -> None:
        self._live.refresh()

    def _table(self) -> Table:
        return board(self._watch, self._chosen, datetime.now(UTC))


@boot.command(epilog=examples("shoal boot why n017"))
@click.argument("node")
@click.option("--lines", default=12, show_default=True, metavar="N", help="How much of the stage logs to show.")
@output
@pass_session
def why(session: Session, node: str, lines: int, form: Format) -> None:
    """Tell the story of a node's latest boot: each stage, how long it took, where it stopped and why.

    The exit status is 1 if the boot failed or stopped.
    """

    async def body(bus: Bus) -> tuple[Boot, str]:
        name = await registry.node(bus, node)
        boots = await bus.call(rpc(Service.FLEET, "boots"), BootsRequest(nodes=[name]), BootsReply)
        if not boots.boots or not boots.boots[0].events:
            raise NotFound(
                f"no boot is known of {name}: its firmware never asked for a loader. Is it powered on, set to boot "
                "from the network, and is its MAC the registered one? `shoal discovered list` shows machines that are "
                f"not registered{await _unarmed(bus, name)}"
            )
        return boots.boots[0], await _log(bus, name)

    story, log = session.run(body)
    verdict = timeline.verdict(story, datetime.now(UTC))
    if form is Format.TABLE:
        _tell(story, verdict, safe_lines(log)[-lines:] if lines > 0 else [])
    else:
        data = story.model_dump(mode="json", exclude_none=True)
        show_data({**data, "arrived": verdict.arrived, "failed": verdict.failed, "verdict": verdict.text}, form)
    if verdict.failed:
        click.get_current_context().exit(1)


async def _unarmed(bus: Bus, name: str) -> str:
    """What to do for a node before it boots, as the end of a sentence."""
    try:
        shown = await bus.call(rpc(Service.REGISTRY, "show-node"), ShowNodeRequest(node=name), ShowNodeReply)
        armed = await bus.call(rpc(Service.AUTH, "armed"), Empty(), ArmedReply)
    except BusError:
        return ""
    always = any(value.field == "admission" and value.value == Admission.ALWAYS for value in shown.values)
    if always or any(node.node == name for node in armed.nodes):
        return ""
    return f". Before it boots, it must be armed: `shoal boot arm {name}`"


async def _log(bus: Bus, name: str) -> str:
    try:
        return (await bus.call(rpc(Service.FLEET, "log"), LogRequest(node=name), LogReply)).text
    except BusError as error:
        return f"(no log: {error})"


def _tell(story: Boot, verdict: timeline.Verdict, log: list[str]) -> None:
    colours = {Status.OK: None, Status.DEGRADED: "yellow", Status.FAILED: "red"}
    rows = []
    for step in timeline.steps(story):
        told = "; ".join(part for part in (safe(step.reason or ""), step.details) if part)
        status = click.style(step.status, fg=colours[step.status])
        rows.append([f"{step.since_start:8.2f} s", f"{step.took:+8.2f}", step.stage, status, told])
    out(f"{story.node}, boot {safe(story.boot or '(not yet known)')}, began {local(story.events[0].at):%F %T}")
    show_table(["at", "took", "stage", "status", "what"], rows)
    if log and not verdict.arrived:
        out(f"\nthe last {len(log)} lines of its log:")
        for entry in log:
            out(f"  {entry}")
    out()
    out(click.style(verdict.text, fg="green" if verdict.arrived else "red" if verdict.failed else "yellow"))
