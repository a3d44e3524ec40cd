"""`shoal image build`, `module list`, `rootfs commit`, `session list`: images on their way to the nodes."""

import asyncio
from datetime import datetime
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from shoal_bus.api import Bus
from shoal_cli import registry
from shoal_cli.options import examples, output, pass_session, seconds
from shoal_cli.releases import JobEvent
from shoal_cli.session import Failure, Session
from shoal_cli.terminal import Format, out, plain, safe, show_data, show_table, size
from shoal_model.messages import (
    BuildReply,
    BuildRequest,
    CommitRootfsReply,
    CommitRootfsRequest,
    Empty,
    ModulesReply,
    SessionsReply,
    Status,
)
from shoal_model.subjects import Service, rpc


@click.command(epilog=examples("shoal image build compute --wait"))
@click.argument("name")
@click.option("--wait", is_flag=True, help="Show its progress and wait for its end; exit status 1 if it fails.")
@click.option(
    "--timeout",
    default=1800.0,
    show_default=True,
    callback=seconds,
    metavar="SECONDS",
    help="How long --wait waits at most.",
)
@pass_session
def build(session: Session, name: str, wait: bool, timeout: float) -> None:
    """Have an image built as it is recorded now.

    Nothing is built if the same inputs gave an image before. A build that waits or runs already is joined.
    """
    registry.named(name)
    session.run(lambda bus: _build(bus, name, timeout) if wait else _enqueue(bus, name))


async def _enqueue(bus: Bus, name: str) -> None:
    reply = await _request(bus, name)
    out(f"image {name} will be built (job {reply.job}); `shoal image build {name} --wait` follows it")


async def _build(bus: Bus, name: str, timeout: float) -> None:
    started = datetime.now().astimezone()
    try:
        async with asyncio.timeout(timeout), bus.events("evt.job.>", JobEvent) as events:
            job = (await _request(bus, name)).job
            with Steps(name) as steps:
                async for _, _, event in events:
                    if event.job == job and steps.hear(event):
                        break
            done = event
    except TimeoutError:
        raise Failure(f"image {name} was not built within {timeout:.0f} s; the job goes on") from None
    if done.status is Status.FAILED:
        raise Failure(f"image {name} was not built: {done.reason or 'no reason given'}")
    seconds = (datetime.now().astimezone() - started).total_seconds()
    out(f"image {name} is published: {(done.digest or '')[:12]} after {seconds:.1f} s")


async def _request(bus: Bus, name: str) -> BuildReply:
    return await bus.call(rpc(Service.IMAGE_BUILDER, "build"), BuildRequest(name=name), BuildReply, timeout=20.0)


class Steps:
    """The steps of a job: a bar on a terminal, a line for each step elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._step = ""
        self._task: TaskID | None = None
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=console).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def hear(self, event: JobEvent) -> bool:
        """Show one event; True if it was the last."""
        if event.status is not None:
            return True
        step = safe(event.step or "")
        if self._progress is None:
            if step != self._step:
                out(f"{event.at.astimezone():%H:%M:%S}  image {self._name}: {step}")
        elif step != self._step:
            if self._task is not None:
                self._progress.update(self._task, total=1, completed=1)
            self._task = self._progress.add_task(f"image {self._name}: {step}", total=None)
        if self._progress is not None and self._task is not None and event.fraction is not None:
            self._progress.update(self._task, total=1, completed=event.fraction)
        self._step = step
        return False


@click.group()
def module() -> None:
    """Image modules that this cluster offers."""


@module.command("list")
@output
@pass_session
def module_list(session: Session, form: Format) -> None:
    """List the modules that images can be made of."""
    reply = session.run(
        lambda bus: bus.call(rpc(Service.IMAGE_BUILDER, "modules"), Empty(), ModulesReply, timeout=60.0)
    )
    if form is not Format.TABLE:
        show_data([info.model_dump(mode="json") for info in reply.modules], form)
        return
    rows = [
        [info.name, info.flavor, safe(info.version), str(info.packages), size(info.size), safe(info.description)]
        for info in reply.modules
    ]
    show_table(["module", "flavor", "version", "packages", "size", "description"], rows)


@click.command(epilog=examples("shoal rootfs commit motd"))
@click.argument("name")
@pass_session
def commit(session: Session, name: str) -> None:
    """Pack the tree of a Root FS customization as it is on the head's disk now: what nodes get from here on."""
    subject = rpc(Service.IMAGE_BUILDER, "commit-rootfs")
    request = CommitRootfsRequest(name=registry.named(name))
    reply = session.run(lambda bus: bus.call(subject, request, CommitRootfsReply, timeout=300.0))
    out(f"rootfs {name}: {reply.files} entries, {size(reply.archive.size)}, sha256 {reply.archive.sha256[:12]}")


@click.group("session")
def session_group() -> None:
    """Multicast sessions that bring images to nodes."""


@session_group.command("list")
@output
@pass_session
def session_list(session: Session, form: Format) -> None:
    """List the running multicast sessions and the latest ended ones."""
    reply = session.run(lambda bus: bus.call(rpc(Service.MCASTD, "sessions"), Empty(), SessionsReply))
    if form is not Format.TABLE:
        show_data([info.model_dump(mode="json") for info in reply.sessions], form)
        return
    rows = [
        [
            f"{info.session:08x}",
            info.image[:12],
            size(info.size),
            f"{info.sent / info.size:.2f}" if info.size else "-",
            f"{info.complete} of {info.receivers}",
            plain(info.started),
            plain(info.ended) if info.ended else "running",
        ]
        for info in reply.sessions
    ]
    show_table(["session", "image", "size", "sent/size", "complete", "started", "ended"], rows)
