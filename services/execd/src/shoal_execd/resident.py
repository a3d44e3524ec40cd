"""The agent of a running node: heartbeat, remote commands, and the event that systemd is up."""

import asyncio
import contextlib
import signal
from dataclasses import replace

from shoal_bus.connection import Connection
from shoal_bus.errors import BusError
from shoal_execd import handover, rebooting, vitals
from shoal_execd.commands import Command, Commands, execute
from shoal_execd.handover import BootState
from shoal_execd.head import Head
from shoal_execd.journal import Journal
from shoal_execd.settings import Settings
from shoal_execd.timeline import DEGRADED, FAILED, OK, Timeline
from shoal_model import subjects
from shoal_model.subjects import Stage

_SYSTEMD = 1800.0
_SYSTEMCTL = 30.0
_FAREWELL = 5.0
_LIST_FAILED = ("systemctl", "list-units", "--failed", "--plain", "--no-legend")
_TOLD = "running-told"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: Settings, journal: Journal) -> None:
    """Run until SIGTERM. Raises HandoverError if this machine was not booted by Shoal."""
    state = handover.load(settings.run)
    head = Head(state.node, state.nats, handover.load_identity(state, settings.run))
    timeline = Timeline(state.node, state.boot, journal, state.unsent)
    # They are ours to deliver now: an agent that is started again must not tell them twice.
    handover.save(replace(state, unsent=[]), settings.run)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    work = asyncio.create_task(_work(settings, state, head, timeline))
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        work.cancel()
        # What crashed is raised here, so that the unit fails and systemd starts it again.
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def _work(settings: Settings, state: BootState, head: Head, timeline: Timeline) -> None:
    bus = await head.reach("execd", timeline.journal)
    commands = Commands(settings.commands)
    try:
        async with timeline.carried(bus, _FAREWELL):
            try:
                await _attend(bus, commands, settings, state, timeline)
            finally:
                # The unit is stopped before the network goes.
                if await rebooting.going_down():
                    await rebooting.announce(bus, head, state.boot, timeline.journal)
    finally:
        await commands.stop()
        await bus.close()


async def _attend(
    bus: Connection, commands: Commands, settings: Settings, state: BootState, timeline: Timeline
) -> None:
    async with asyncio.TaskGroup() as group:
        # In a queue group: while a link is renewed, the old one and the new one listen.
        await bus.subscribe(subjects.node_topic(state.node, "exec"), commands.answer, queue=state.node)
        timeline.journal.info(f"node {state.node} serves the head at {', '.join(state.nats)}")
        group.create_task(_beat(bus, settings, state, timeline.journal))
        group.create_task(_await_systemd(settings, state, timeline))


async def _beat(bus: Connection, settings: Settings, state: BootState, journal: Journal) -> None:
    subject = subjects.node_topic(state.node, "heartbeat")
    while True:
        if bus.connected:
            try:
                await bus.publish(subject, vitals.heartbeat(state, settings.run))
            except BusError as error:
                journal.debug(f"a heartbeat was lost: {error}")
        await asyncio.sleep(settings.heartbeat)


async def _await_systemd(settings: Settings, state: BootState, timeline: Timeline) -> None:
    """Tell once a boot that systemd has started everything, and what it could not start."""
    told = settings.run / _TOLD
    if told.exists():
        return
    status, reason = await systemd_state()
    timeline.event(Stage.SYSTEMD_RUNNING, {"image": state.image}, status=status, reason=reason)
    told.touch()


async def systemd_state() -> tuple[str, str]:
    """Wait until systemd has started everything: status and reason of `systemd.running`."""
    reply = await execute(Command("state", ("systemctl", "is-system-running", "--wait"), _SYSTEMD))
    words = reply["stdout"].decode("utf-8", "replace").split()
    if words == ["running"]:
        return OK, ""
    if words != ["degraded"]:
        said = reply["error"] or reply["stderr"].decode("utf-8", "replace").strip() or " ".join(words) or "nothing"
        return FAILED, f"systemd did not come to run; systemctl says: {said}"
    listed = await execute(Command("failed", _LIST_FAILED, _SYSTEMCTL))
    units = [line.split()[0] for line in listed["stdout"].decode("utf-8", "replace").splitlines() if line.split()]
    return DEGRADED, f"failed units: {', '.join(units)}; `systemctl status` on the node tells why"
