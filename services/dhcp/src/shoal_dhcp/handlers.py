"""A packet in, a packet or nothing out; what is worth telling goes into the outbox. No rules here."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from typing import Protocol

from structlog.stdlib import BoundLogger

from shoal_dhcp import events, metrics
from shoal_dhcp.answers import Decision, Find, Noted, Reason, Reply, Silence, answer
from shoal_dhcp.events import Notice
from shoal_dhcp.notices import Recently, Transactions
from shoal_dhcp.replies import DISPENSABLE, Boot
from shoal_dhcp4 import (
    Destination,
    LocalProtocolError,
    MessageType,
    Packet,
    RemoteProtocolError,
    decode,
    destination,
    fitted,
    hardware_address,
)
from shoal_model.resolve import Unresolvable
from shoal_model.subjects import Stage

SEEN_INTERVAL = 30.0
"""Seconds between two events about one unknown machine."""
_SEEN_CAPACITY = 4096
_COMPLAINT_INTERVAL, _COMPLAINT_CAPACITY = 60.0, 256
_LARGEST = 1500 - 28


class Outbox(Protocol):
    """Takes notices without waiting."""

    def put(self, notice: Notice) -> None:
        """Keep it until the bus takes it; under pressure the oldest is lost, and counted."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A UDP payload with where it goes, and the address of ours that it comes from."""

    payload: bytes
    source: IPv4Address
    destination: Destination


class Handler:
    """What one head does with each packet."""

    def __init__(self, find: Find, outbox: Outbox, log: BoundLogger, *, current: Callable[[], bool]) -> None:
        self._find = find
        self._outbox = outbox
        self._log = log
        self._current = current
        self._seen = Recently(SEEN_INTERVAL, _SEEN_CAPACITY)
        self._complaints = Recently(_COMPLAINT_INTERVAL, _COMPLAINT_CAPACITY)
        self._transactions = Transactions()

    def handle(self, data: bytes, at: datetime, now: float) -> Outgoing | None:
        """The answer to a packet, if it gets one. `at` is the time of day, `now` seconds that never go back."""
        try:
            request = decode(data)
            kind = request.message_type
            metrics.REQUESTS.labels("none" if kind is None else kind.name.lower()).inc()
            decision = answer(request, self._find, current=self._current())
            return self._act(request, decision, at, now)
        except RemoteProtocolError as error:
            self._drop(Reason.MALFORMED)
            self._log.debug("dhcp.malformed", reason=str(error))
        except Unresolvable as error:
            self._drop(Reason.UNRESOLVABLE)
            self._complain("dhcp.unresolvable", now, reason=str(error))
        except LocalProtocolError as error:
            self._drop(Reason.TOO_LARGE)
            self._complain("dhcp.too_large", now, reason=str(error))
        return None

    def _act(self, request: Packet, decision: Decision, at: datetime, now: float) -> Outgoing | None:
        match decision:
            case Reply():
                return self._reply(request, decision, at, now)
            case Noted():
                self._note(request, decision, at, now)
            case Silence():
                self._stay_silent(request, decision, at, now)
        return None

    def _reply(self, request: Packet, reply: Reply, at: datetime, now: float) -> Outgoing:
        payload = fitted(reply.packet, min(request.size_limit, _LARGEST), DISPENSABLE)
        kind = reply.packet.message_type
        assert kind is not None
        metrics.REPLIES.labels(kind.name.lower()).inc()
        if kind is MessageType.NAK:
            self._complain("dhcp.nak", now, node=reply.given.node, mac=reply.given.mac)
        elif reply.boot is not None and request.message_type is not MessageType.INFORM:
            self._tell_of_boot(reply, reply.boot, events.STAGES[kind], at, now)
        return Outgoing(payload, reply.given.head, destination(reply.packet))

    def _tell_of_boot(self, reply: Reply, boot: Boot, stage: Stage, at: datetime, now: float) -> None:
        given = reply.given
        if self._transactions.is_new((given.mac, stage, boot.file), reply.packet.xid, now):
            self._outbox.put(events.boot_step(reply, boot, stage, at))
            self._log.info(str(stage), node=given.node, mac=given.mac, ip=str(given.address), loader=boot.file)

    def _note(self, request: Packet, noted: Noted, at: datetime, now: float) -> None:
        given = noted.given
        if noted.kind is MessageType.RELEASE:
            self._log.debug("dhcp.release", node=given.node, mac=given.mac)
        elif noted.address == given.address and self._transactions.is_new((given.mac, "declined"), request.xid, now):
            self._outbox.put(events.declined(noted, request, at))
            self._log.warning("dhcp.decline", node=given.node, mac=given.mac, ip=str(noted.address))

    def _stay_silent(self, request: Packet, silence: Silence, at: datetime, now: float) -> None:
        self._drop(silence.reason)
        if silence.reason is Reason.UNKNOWN_MAC:
            mac = hardware_address(request)
            if self._seen.is_new(mac, now):
                self._outbox.put(events.machine_seen(request, mac, at))
                self._log.info("dhcp.unknown", mac=mac.hex(":"))
        elif silence.reason is Reason.OTHER_NETWORK and silence.given is not None:
            self._complain(
                "dhcp.other_network",
                now,
                node=silence.given.node,
                relay=str(request.giaddr),
                expected=str(silence.given.network),
            )

    def _drop(self, reason: Reason) -> None:
        metrics.DROPPED.labels(reason).inc()

    def _complain(self, what: str, now: float, **fields: str) -> None:
        """Log a warning, the same one once a minute: anybody can send the packet that causes it."""
        if self._complaints.is_new((what, *fields.items()), now):
            self._log.warning(what, **fields)
