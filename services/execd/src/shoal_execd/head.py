"""The way to the head: the bus, and what is to be booted. Both are waited for, for ever, with growing pauses."""

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from shoal_bus.connection import Connection, Credentials, connect
from shoal_bus.dialling import NOT_DECIDED
from shoal_bus.errors import BusError
from shoal_execd import clock
from shoal_execd.http_source import SourceFailed, fetch_small
from shoal_execd.identity import Identity
from shoal_execd.journal import Journal
from shoal_execd.orders import Orders, OrdersError, parse_orders
from shoal_execd.pauses import Pauses
from shoal_execd.timeline import DEGRADED, Link, Timeline
from shoal_identity import trust
from shoal_identity.tokens import CONNECTION_LIFETIME
from shoal_model import ports, subjects
from shoal_model.subjects import Service, Stage

_ASK = 10.0
_SAY_AGAIN = 60.0
_DATAGRAM = 1200
_DATAGRAMS_PER_SECOND = 20
_LOGGERS = {logging.getLogger("shoal.bus"): logging.INFO, logging.getLogger("asyncio"): logging.ERROR}
"""asyncio warns of every connection with TLS that ends."""
_REFUSED = re.compile(r"authorization (?:violation|failed)", re.IGNORECASE)
_UNDECIDED = re.compile(re.escape(NOT_DECIDED))

T = TypeVar("T")


class BusLog(logging.Handler):
    """What the bus library logs, into the journal: the same complaint once a minute, every one of them in `debug`.

    That the bus refuses this node, or cannot decide about it, is said in words that an operator can act on.
    """

    def __init__(self, journal: Journal, node: str) -> None:
        super().__init__(logging.DEBUG)
        self._journal = journal
        self._plainly = {
            _REFUSED: "the head does not let this node in: it is not armed, or in quarantine; "
            f"`shoal boot why {node}` on the head tells why. It tries on",
            _UNDECIDED: "the head answers, and does not say whether it lets this node in: auth may be down there; "
            "`log/auth.log` in the head's state directory tells. It tries on",
        }
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """One record as a line."""
        text, complaint, now = self.format(record), str(record.msg), clock.uptime()
        for sign, plainly in self._plainly.items():
            if sign.search(text):
                self._journal.debug(text)
                text = complaint = plainly
        if record.levelno >= logging.WARNING and now - self._said.get(complaint, float("-inf")) >= _SAY_AGAIN:
            self._said[complaint] = now
            self._journal.info(text)
        else:
            self._journal.debug(text)


@dataclass
class Head:
    """Where the head of a node is, and what each of them proves to the other: nothing without an `identity`, over a
    bus without TLS. `token` is shown until the bus has let us in; from then on the key alone is known there.
    """

    node: str
    servers: Sequence[str]
    identity: Identity | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How other servers of the head are checked."""
        return None if self.identity is None else self.identity.tls

    @property
    def image_keys(self) -> tuple[str, ...] | None:
        """Whose images this node boots; None: anybody's."""
        return None if self.identity is None else self.identity.trust.image_keys

    def credentials(self) -> Credentials:
        """What is shown to the bus this time."""
        inbox = subjects.inbox("node", self.node)
        if self.identity is None:
            return Credentials(inbox_prefix=inbox)
        return Credentials(
            key=self.identity.key,
            token=self.token,
            tls=self.identity.tls,
            inbox_prefix=inbox,
            lifetime=CONNECTION_LIFETIME,
        )

    async def reach(self, program: str, journal: Journal, *, timeout: float | None = None) -> Connection:
        """A connection to the bus. Waits until there is one (or Unavailable after `timeout` seconds); the journal says
        why there is none yet.
        """
        for logger, level in _LOGGERS.items():
            logger.handlers[:] = [BusLog(journal, self.node)]
            logger.setLevel(level)
            logger.propagate = False
        name = f"{self.node} {program}"
        connection = await connect(self.servers, name=name, credentials=self.credentials, timeout=timeout)
        self.token = None
        return connection


async def fetch_trust(hosts: Sequence[str], digest: str, timeline: Timeline) -> trust.Trust:
    """The `ca.crt` with this SHA-256, from any of these boot file servers. Asks until one has it, with the reason in
    the timeline once a minute.
    """

    def fetch() -> trust.Trust:
        reasons = []
        for host in hosts:
            url = f"http://{host}:{ports.BOOT_HTTP}/shoal/ca.crt"
            try:
                return trust.parse(fetch_small(url, trust.LONGEST), digest)
            except SourceFailed as error:
                reasons.append(str(error))
            except trust.BadTrust as error:
                reasons.append(f"{url}: {error}")
        raise SourceFailed("; ".join(reasons))

    async def ask() -> trust.Trust:
        return await asyncio.to_thread(fetch)

    return await insist(ask, timeline, Stage.STAGE1_BUS, "the head cannot prove who it is")


async def ask_orders(link: Link, timeline: Timeline, image_keys: Sequence[str] | None = None) -> Orders:
    """What this node is to boot, signed by one of `image_keys` (None: by anybody). Asks until the registry says it,
    with the reason in the timeline once a minute.
    """
    subject = subjects.rpc(Service.REGISTRY, "boot", timeline.node)

    async def ask() -> Orders:
        return parse_orders(await link.request(subject, {"boot": timeline.boot}, timeout=_ASK), image_keys)

    return await insist(ask, timeline, Stage.STAGE1_BUS, "the head does not say what to boot")


async def insist(ask: Callable[[], Awaitable[T]], timeline: Timeline, stage: Stage, what: str) -> T:
    """The result of `ask`, tried with growing pauses as long as it raises BusError, OrdersError or SourceFailed."""
    pauses, said = Pauses(first=0.5, longest=30.0), float("-inf")
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await ask()
        except (BusError, OrdersError, SourceFailed) as error:
            reason = f"{what}: {error}; still trying"
        if loop.time() - said >= _SAY_AGAIN:
            said = loop.time()
            timeline.event(stage, status=DEGRADED, reason=reason)
        else:
            timeline.journal.debug(reason)
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
