"""The way to the head: the bus, and what is to be booted. Both are waited for, for ever, with growing pauses."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shoal_bus.connection import Connection, connect
from shoal_bus.errors import BusError
from shoal_execd import clock
from shoal_execd.journal import Journal
from shoal_execd.orders import Orders, OrdersError, parse_orders
from shoal_execd.pauses import Pauses
from shoal_execd.timeline import DEGRADED, Link, Timeline
from shoal_model import ports, subjects
from shoal_model.subjects import Service, Stage

_ASK = 10.0
_SAY_AGAIN = 60.0
_DATAGRAM = 1200
_DATAGRAMS_PER_SECOND = 20

T = TypeVar("T")


class BusLog(logging.Handler):
    """What the bus library logs, into the journal: the same complaint once a minute, every one of them in `debug`."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.DEBUG)
        self._journal = journal
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """One record as a line."""
        now, complaint = clock.uptime(), str(record.msg)
        if record.levelno >= logging.WARNING and now - self._said.get(complaint, float("-inf")) >= _SAY_AGAIN:
            self._said[complaint] = now
            self._journal.info(self.format(record))
        else:
            self._journal.debug(self.format(record))


async def reach(servers: list[str], name: str, journal: Journal) -> Connection:
    """A connection to the bus. Waits until there is one; the journal says why there is none yet."""
    logger = logging.getLogger("shoal.bus")
    logger.handlers[:] = [BusLog(journal)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return await connect(servers, name=name)


async def ask_orders(link: Link, timeline: Timeline) -> Orders:
    """What this node is to boot. Asks until the registry knows, with the reason in the timeline once a minute."""
    subject = subjects.rpc(Service.REGISTRY, "boot", timeline.node)

    async def ask() -> Orders:
        return parse_orders(await link.request(subject, {"boot": timeline.boot}, timeout=_ASK))

    return await insist(ask, timeline, Stage.STAGE1_BUS, "the head does not say what to boot")


async def insist(ask: Callable[[], Awaitable[T]], timeline: Timeline, stage: Stage, what: str) -> T:
    """The result of `ask`, tried with growing pauses as long as it raises BusError or OrdersError."""
    pauses, said = Pauses(first=0.5, longest=30.0), float("-inf")
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await ask()
        except (BusError, OrdersError) as error:
            reason = f"{what}: {error}; still trying"
        if loop.time() - said >= _SAY_AGAIN:
            said = loop.time()
            timeline.event(stage, status=DEGRADED, reason=reason)
        await asyncio.sleep(pauses.next())


async def log_by_datagrams(head: str, journal: Journal, *, after: float) -> None:
    """Send the log to the head in small datagrams, rate-limited, beginning `after` seconds from now, until cancelled.

    For as long as the bus does not answer: no boot dies mute.
    """
    await asyncio.sleep(after)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        while True:
            send_datagram(sender, head, journal)
            await asyncio.sleep(1 / _DATAGRAMS_PER_SECOND)


def send_datagram(sender: socket.socket, head: str, journal: Journal) -> None:
    """Send the oldest lines that wait, as many as fit. Lines that could not be sent wait on."""
    lines: list[str] = []
    for line in journal.batch():
        if lines and sum(len(each.encode()) + 1 for each in [*lines, line]) > _DATAGRAM:
            break
        lines.append(line)
    if not lines:
        return
    try:
        sender.sendto("".join(f"{line}\n" for line in lines).encode()[:_DATAGRAM], (head, ports.STAGE_LOG))
    except OSError:
        return  # no route yet, or a full queue: the same lines go the next time
    journal.taken(lines, counted=False)
