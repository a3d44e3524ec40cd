"""The events that dhcp tells the bus, as values. Pure."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel

from shoal_dhcp.answers import Noted, Reply
from shoal_dhcp.loaders import architecture, printable
from shoal_dhcp.notices import Transactions
from shoal_dhcp.replies import Boot
from shoal_dhcp4 import ANY, MessageType, Option, Packet
from shoal_model import names, subjects
from shoal_model.messages import BootEvent, MachineSeen, Status
from shoal_model.subjects import Stage

STAGES = {MessageType.OFFER: Stage.DHCP_OFFER, MessageType.ACK: Stage.DHCP_ACK}
_GUID_SIZE = 16


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for the bus. With an id it is stored, once for all replicas; without, it is for who listens now."""

    subject: str
    message: BaseModel
    id: str | None = None


def machine_seen(request: Packet, mac: bytes, at: datetime) -> Notice:
    """An unknown machine asked for an address."""
    seen = MachineSeen(
        mac=mac.hex(":"),
        at=at,
        vendor_class=printable(request.options.get(Option.VENDOR_CLASS, b""))[:255] or None,
        architecture=architecture(request),
        uuid=machine_uuid(request),
        relay=None if request.giaddr == ANY else str(request.giaddr),
    )
    return Notice(subjects.event("machine", names.mac_key(seen.mac), "seen"), seen)


def boot_step(reply: Reply, boot: Boot, stage: Stage, at: datetime) -> Notice:
    """A boot client was offered, or has been given, its address."""
    details: dict[str, str | int | float | bool] = {"address": str(reply.given.address)}
    if boot.client.architecture is not None:
        details["architecture"] = boot.client.architecture
    details["vendor_class"] = boot.client.vendor_class[:255]
    status, reason = Status.OK, None
    if boot.file is None:
        status = Status.DEGRADED
        reason = f"there is no loader for architecture {boot.client.architecture}: the node got an address alone"
    else:
        details["loader"] = boot.file
    event = BootEvent(node=reply.given.node, stage=stage, at=at, status=status, reason=reason, details=details)
    return Notice(subjects.boot_event(event.node, stage), event, _id(str(stage), reply.given.mac, reply.packet.xid, at))


def declined(noted: Noted, request: Packet, at: datetime) -> Notice:
    """A node found its address in use by another machine and refused it."""
    event = BootEvent(
        node=noted.given.node,
        stage=Stage.DHCP_ACK,
        at=at,
        status=Status.FAILED,
        reason=f"the node declined {noted.address}: another machine answers at this address; find and stop it",
        details={"address": str(noted.address)},
    )
    return Notice(
        subjects.boot_event(event.node, event.stage), event, _id("declined", noted.given.mac, request.xid, at)
    )


def machine_uuid(request: Packet) -> str | None:
    """Option 97 as 32 hex digits in the order on the wire; firmware does not agree on the order of the first fields.

    A machine without one sends zeros.
    """
    value = request.options.get(Option.CLIENT_MACHINE_IDENTIFIER, b"")
    return value[1:].hex() if len(value) == 1 + _GUID_SIZE and value[0] == 0 and any(value) else None


def _id(what: str, mac: str, xid: int, at: datetime) -> str:
    """The same for all replicas that hear the packet; another for the next boot, even if that has the same `xid`."""
    return f"{what}-{mac}-{xid:08x}-{int(at.timestamp() // Transactions.RETRANSMISSION)}"
