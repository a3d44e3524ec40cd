"""Stage 2: `/sbin/init.shoal`, the first process of the image. Drivers of the whole hardware, this node's options,
the scripts of `/lib/shoal/init.d`, then systemd in its place.
"""

import asyncio
import os
import signal
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from shoal_bus.connection import Connection
from shoal_execd import cmdline, configure, handover, pid1, scripts, udev
from shoal_execd.handover import BootState
from shoal_execd.head import Head, log_by_datagrams
from shoal_execd.journal import Journal, to_console, to_file, to_kernel
from shoal_execd.node_options import Options
from shoal_execd.processes import ProcessFailed
from shoal_execd.rebooting import Announcer
from shoal_execd.timeline import DEGRADED, FAILED, OK, Details, Timeline, explain
from shoal_execd.union import MS_NODEV, MS_NOSUID, mount
from shoal_model.subjects import Stage

ROOT = Path("/")
LOGS = Path("/var/log/shoal")
SYSTEMD = "/lib/systemd/systemd"
_PATIENCE = 300.0
"""Seconds to wait for the options; then the node goes on without them, and says so."""
_DATAGRAMS_AFTER = 3.0
_FAREWELL = 5.0


def main() -> NoReturn:
    """Make this node ready for systemd, and become it."""
    pid1.mount_kernel_file_systems()
    pid1.open_console()
    text = Path("/proc/cmdline").read_text()
    verbose, early_shell = cmdline.flag(text, "debug"), cmdline.flag(text, "early-shell")
    outputs = [to_console(), to_kernel(), to_file(LOGS / "stage2.log")]
    journal = Journal("stage2", outputs, verbose=verbose, secrets=cmdline.secrets(text))
    announcer = Announcer(journal)
    try:
        if early_shell:
            pid1.shell(journal, "early-shell on the kernel command line")
        state = handover.load()
        head = Head(state.node, state.nats, handover.load_identity(state))
        announcer.head, announcer.boot = head, state.boot
        keep_log(LOGS, Path(state.stage1_log))
        asyncio.run(stage2(state, head, journal))
        become_systemd()
    except BaseException as error:
        journal.debug(traceback.format_exc())
        pid1.give_up(journal, explain(error), announcer, interactive=verbose or early_shell)


async def stage2(state: BootState, head: Head, journal: Journal) -> None:
    """Everything between the mounted union and systemd. What the head did not get is left for the resident agent."""
    timeline = Timeline(state.node, state.boot, journal, state.unsent)
    timeline.event(Stage.STAGE2_START)
    mount("tmp", Path("/tmp"), "tmpfs", flags=MS_NOSUID | MS_NODEV, options=f"mode=1777,size={state.tmp_size}")
    with udev.running(journal):
        async with asyncio.TaskGroup() as group:
            # The head hears of this stage while the drivers still load.
            drivers = group.create_task(_coldplug(timeline))
            await _configure(state, head, timeline, drivers)
    handover.save(replace(state, unsent=timeline.rest()))


async def _coldplug(timeline: Timeline) -> None:
    begin = time.monotonic()
    try:
        await asyncio.to_thread(udev.coldplug)
        status, reason = OK, ""
    except ProcessFailed as error:
        status, reason = DEGRADED, str(error)
    timeline.event(Stage.STAGE2_UDEV, {"seconds": round(time.monotonic() - begin, 3)}, status=status, reason=reason)


async def _configure(state: BootState, head: Head, timeline: Timeline, drivers: asyncio.Task[None]) -> None:
    """Options and scripts once the drivers are there, with the bus where it can be reached, without it where not."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    bus = await _reach(state, head, timeline, deadline)
    if bus is None:
        reason = f"the bus could not be reached for {_PATIENCE:.0f} s; the node goes on without its options"
        timeline.event(Stage.EXECD_OPTIONS, status=FAILED, reason=reason)
        await drivers
        await _run_scripts(timeline)
        timeline.event(Stage.SYSTEMD_START)
        return
    try:
        async with timeline.carried(bus, _FAREWELL):
            await drivers
            options = await _options(bus, timeline, deadline)
            if options is not None:
                await _apply(options, head, timeline)
            await _run_scripts(timeline)
            timeline.event(Stage.SYSTEMD_START)
    finally:
        await bus.close()


async def _reach(state: BootState, head: Head, timeline: Timeline, deadline: float) -> Connection | None:
    datagrams = asyncio.create_task(log_by_datagrams(state.head, timeline.journal, after=_DATAGRAMS_AFTER))
    try:
        async with asyncio.timeout_at(deadline):
            return await head.reach("stage2", timeline.journal)
    except TimeoutError:
        return None
    finally:
        datagrams.cancel()


async def _options(bus: Connection, timeline: Timeline, deadline: float) -> Options | None:
    begin = time.monotonic()
    try:
        async with asyncio.timeout_at(deadline):
            options = await configure.await_options(bus, timeline)
    except TimeoutError:
        reason = f"no options came for {_PATIENCE:.0f} s; the node goes on without them"
        timeline.event(Stage.EXECD_OPTIONS, status=FAILED, reason=reason)
        return None
    details: Details = {"generation": options.generation, "seconds": round(time.monotonic() - begin, 3)}
    timeline.event(Stage.EXECD_OPTIONS, details)
    return options


async def _apply(options: Options, head: Head, timeline: Timeline) -> None:
    place = (ROOT, handover.RUN, timeline.node, timeline.journal)
    configurator = configure.Configurator(*place, time.sleep, tls=head.tls)
    outcome = await asyncio.to_thread(configurator.apply, options)
    configure.report(timeline, options, outcome)


async def _run_scripts(timeline: Timeline) -> None:
    results = await asyncio.to_thread(scripts.run_all, ROOT, timeline.journal)
    failed = [f"{name}: {result}" for name, result in results.items() if result != "0"]
    details: Details = {"scripts": len(results), **results}
    timeline.event(Stage.STAGE2_SCRIPTS, details, status=DEGRADED if failed else OK, reason="; ".join(failed))


def keep_log(logs: Path, stage1_log: Path) -> None:
    """Put stage 1's log where the node keeps its logs."""
    logs.mkdir(parents=True, exist_ok=True)
    if stage1_log.is_file():
        (logs / stage1_log.name).write_bytes(stage1_log.read_bytes())


def become_systemd() -> NoReturn:
    """Give process 1 to systemd. Raises OSError if the image has none."""
    while True:
        # What udev and the scripts left behind; systemd would wait for the next death before it looked.
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                break
        except ChildProcessError:
            break
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.execv(SYSTEMD, ["/sbin/init"])
