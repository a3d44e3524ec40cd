"""Stage 1: the first process of the initrd. It brings the boot NIC up, asks the head what to boot, fetches and verifies
the image, mounts the union and hands over to `/sbin/init.shoal` in it.
"""

import asyncio
import os
import socket
import traceback
from pathlib import Path
from typing import NoReturn

from shoal_bus.connection import Connection
from shoal_execd import clock, cmdline, drivers, handover, network, pid1, union
from shoal_execd.cmdline import CommandLine
from shoal_execd.fetch import FetchFailed, fetch_image
from shoal_execd.head import Head, ask_orders, fetch_trust, log_by_datagrams, send_datagram
from shoal_execd.identity import Identity
from shoal_execd.journal import Journal, to_console, to_file, to_kernel
from shoal_execd.landing import Slot
from shoal_execd.multicast import Multicast
from shoal_execd.orders import Orders
from shoal_execd.pauses import Pauses
from shoal_execd.processes import BUSYBOX
from shoal_execd.rebooting import Announcer
from shoal_execd.timeline import FAILED, Timeline, explain
from shoal_identity.keys import Key
from shoal_model.subjects import Stage

LOG = handover.RUN / "log" / "stage1.log"
_NET = Path("/sys/class/net")
_DATAGRAMS_AFTER = 3.0
_FAREWELL = 5.0
_PATHS = union.Paths()


def main() -> NoReturn:
    """Boot this node. Ends in another program, or in a reboot."""
    pid1.mount_kernel_file_systems()
    pid1.open_console()
    text = Path("/proc/cmdline").read_text()
    verbose = cmdline.flag(text, "debug")
    outputs = [to_console(), to_kernel(), to_file(LOG)]
    journal = Journal("stage1", outputs, verbose=verbose, secrets=cmdline.secrets(text))
    announcer = Announcer(journal)
    try:
        asyncio.run(boot(text, journal, announcer))
        union.move_along(_PATHS)
        os.execv(BUSYBOX, ["switch_root", "-c", "/dev/console", str(_PATHS.root), union.INIT])
    except BaseException as error:
        journal.debug(traceback.format_exc())
        pid1.give_up(journal, explain(error), announcer, interactive=verbose or cmdline.flag(text, "early-shell"))


async def boot(text: str, journal: Journal, announcer: Announcer) -> None:
    """Everything up to the mounted union. Raises what stopped it, after the head was told."""
    journal.info(f"stage 1 on kernel {os.uname().release}: {text.strip()}")
    line = cmdline.parse(text)
    off = clock.step(line.time) if line.time is not None else None
    if off is not None:
        journal.info(f"the clock was {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} the head's; it was set")
    timeline = Timeline(line.node, line.boot, journal)
    timeline.event(Stage.STAGE1_START, {"kernel": os.uname().release, "uptime": round(clock.uptime(), 3)})
    with timeline.attempt(Stage.STAGE1_NETWORK) as details:
        await asyncio.to_thread(bring_up, line, journal)
        details.update(mac=line.mac, address=f"{line.ip.address}/{line.ip.prefix}")
    try:
        await from_head(line, timeline, announcer)
    except BaseException:
        await farewell(line.head, journal)
        raise


def bring_up(line: CommandLine, journal: Journal) -> None:
    """Drivers, and the boot NIC with its address and link. Raises NoNetwork, ProcessFailed."""
    patience = network.Patience()
    drivers.coldplug(journal)
    name = network.await_interface(line.mac, lambda: drivers.coldplug(journal, rounds=1), net=_NET, patience=patience)
    network.configure(name, line.ip)
    took = network.await_carrier(journal, net=_NET, patience=patience)
    journal.info(f"{name} {line.mac} is {network.NAME} with {line.ip.address}; link after {took:.1f} s")


async def from_head(line: CommandLine, timeline: Timeline, announcer: Announcer) -> None:
    """Fetch the image that the head assigns, mount it, and leave what the next stage needs."""
    datagrams = asyncio.create_task(log_by_datagrams(line.head, timeline.journal, after=_DATAGRAMS_AFTER))
    try:
        with timeline.attempt(Stage.STAGE1_BUS) as details:
            head = Head(line.node, line.nats, await identify(line, timeline), line.token)
            bus = await head.reach("stage1", timeline.journal)
            details["servers"] = ",".join(line.nats)
    finally:
        datagrams.cancel()
    announcer.head, announcer.boot = head, line.boot
    try:
        async with timeline.carried(bus, _FAREWELL):
            orders = await receive(bus, timeline, line, head)
            with timeline.attempt(Stage.UNION_MOUNTED) as details:
                await asyncio.to_thread(drivers.load_for_root, timeline.journal)
                await asyncio.to_thread(union.assemble, _PATHS, orders.root_size)
                details["root_size"] = orders.root_size
    finally:
        await bus.close()
    hand_over(state(line, orders, timeline), head.identity, handover.RUN)


async def identify(line: CommandLine, timeline: Timeline) -> Identity | None:
    """A key that nobody had before, and the `ca.crt` that the command line names; None for a bus without TLS."""
    if line.ca is None:
        return None
    return Identity(Key.new(), await fetch_trust(line.heads, line.ca, timeline))


async def receive(bus: Connection, timeline: Timeline, line: CommandLine, head: Head) -> Orders:
    """The image, whole and verified, in its place. Tries until it is, asking each time what is to be booted."""
    pauses = Pauses(first=2.0, longest=60.0)
    multicast = Multicast(bus, timeline.node, timeline.boot, line.ip.address)
    with Slot(_PATHS.file, lambda size: union.room_for(size, _PATHS)) as slot:
        while True:
            orders = await ask_orders(bus, timeline, head.image_keys)
            try:
                await fetch_image(timeline, slot.open(orders.manifest), orders, multicast.receive, head.tls)
                return orders
            except FetchFailed as error:
                pause = pauses.next()
                reason = f"{error}; all is tried again in {pause:.0f} s"
                timeline.event(Stage.IMAGE_RECEIVED, status=FAILED, reason=reason)
            await asyncio.sleep(pause)


def state(line: CommandLine, orders: Orders, timeline: Timeline) -> handover.BootState:
    """What stage 2 and the resident agent need to know of this boot."""
    return handover.BootState(
        node=line.node,
        boot=line.boot,
        nats=list(line.nats),
        head=line.head,
        address=line.ip.address,
        sources=list(orders.sources),
        image=orders.manifest.sha256,
        tmp_size=orders.tmp_size,
        stage1_log=str(LOG),
        unsent=timeline.rest(),
    )


def hand_over(state: handover.BootState, identity: Identity | None, run: Path) -> None:
    """Leave both where stage 2 and the resident agent find them, the key in memory that is never swapped."""
    if identity is not None:
        union.mount_secret(run / handover.SECRET)
        handover.save_identity(identity, run)
    handover.save(state, run)


async def farewell(head: str, journal: Journal) -> None:
    """Send by datagram what the bus did not take, for a few seconds: a boot that failed must not die mute."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        end = clock.uptime() + _FAREWELL
        while journal.batch() and clock.uptime() < end:
            send_datagram(sender, head, journal)
            await asyncio.sleep(0.05)
