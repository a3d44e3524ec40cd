"""What to do about a packet: answer, note, or stay silent. The rules of RFC 2131, section 4.3, for a server whose
leases are assignments: it knows for each registered hardware address the one address that is right. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from shoal_dhcp import replies
from shoal_dhcp.assignments import Assignment
from shoal_dhcp.loaders import boot_client, boot_file
from shoal_dhcp.replies import Boot
from shoal_dhcp4 import ANY, MessageType, Op, Option, Packet, RemoteProtocolError, hardware_address, suboptions

Find = Callable[[bytes], Assignment | None]
"""Looks a hardware address up in memory; None if no node has it."""

_LINK_SELECTION = 5


class Reason(StrEnum):
    """Why a packet gets no answer; the values are those of the metric's label."""

    MALFORMED = "malformed"
    NO_REQUEST = "no-request"
    UNKNOWN_MAC = "unknown-mac"
    OTHER_NETWORK = "other-network"
    OTHER_SERVER = "other-server"
    NO_ADDRESS = "no-address"
    MAYBE_OUTDATED = "maybe-outdated"
    UNRESOLVABLE = "unresolvable"
    TOO_LARGE = "too-large"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this packet. `boot` is there if the client wants to boot."""

    packet: Packet
    given: Assignment
    boot: Boot | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """A DECLINE or RELEASE of a registered node: nothing to send. `address` is what it speaks of."""

    kind: MessageType
    given: Assignment
    address: IPv4Address | None


@dataclass(frozen=True, slots=True)
class Silence:
    """Send nothing. `given` is there where the hardware address is registered."""

    reason: Reason
    given: Assignment | None = None


Decision = Reply | Noted | Silence


def answer(request: Packet, find: Find, *, current: bool) -> Decision:
    """Decide about one packet. `current` says that the records are known to be up to date: only then may a client be
    refused, because an outdated copy cannot be sure.

    Raises RemoteProtocolError if the packet is malformed in an option that matters.
    """
    kind = request.message_type
    if request.op is not Op.REQUEST or kind in (None, MessageType.OFFER, MessageType.ACK, MessageType.NAK):
        return Silence(Reason.NO_REQUEST)
    given = find(hardware_address(request))
    if given is None:
        return Silence(Reason.UNKNOWN_MAC)
    if not _comes_from_its_network(request, given):
        return Silence(Reason.OTHER_NETWORK, given)
    match kind:
        case MessageType.DISCOVER:
            boot = _boot(request, given)
            return Reply(replies.offer(request, given, boot), given, boot)
        case MessageType.REQUEST:
            return _answer_request(request, given, current=current)
        case MessageType.INFORM:
            return _answer_inform(request, given)
        case MessageType.DECLINE:
            return Noted(kind, given, request.requested_address)
        case _:
            return Noted(MessageType.RELEASE, given, request.ciaddr)


def _answer_request(request: Packet, given: Assignment, *, current: bool) -> Decision:
    """SELECTING has a server identifier, INIT-REBOOT a requested address, RENEWING and REBINDING a `ciaddr`."""
    chosen = request.server_identifier
    if chosen is not None and chosen != given.head:
        return Silence(Reason.OTHER_SERVER, given)
    wanted = request.requested_address if request.ciaddr == ANY else request.ciaddr
    if wanted is None:
        return Silence(Reason.NO_ADDRESS, given)
    if wanted == given.address:
        boot = _boot(request, given)
        return Reply(replies.ack(request, given, boot), given, boot)
    if not current:
        return Silence(Reason.MAYBE_OUTDATED, given)
    return Reply(replies.nak(request, given, wanted), given)


def _answer_inform(request: Packet, given: Assignment) -> Decision:
    if request.ciaddr == ANY:
        return Silence(Reason.NO_ADDRESS, given)
    if request.ciaddr not in given.network:  # else anybody's forged INFORM would have us write to anybody
        return Silence(Reason.OTHER_NETWORK, given)
    boot = _boot(request, given)
    return Reply(replies.ack(request, given, boot), given, boot)


def _comes_from_its_network(request: Packet, given: Assignment) -> bool:
    """A node out of place gets nothing: its own address would be of no use there.

    Straight requests come from the boot network; a unicast renewal may come from anywhere, with the right address.
    """
    link = _link(request)
    if link is not None:
        return link in given.network
    return given.local or request.ciaddr == given.address


def _link(request: Packet) -> IPv4Address | None:
    """The network that a relay speaks for: its link selection (RFC 3527), or the address that it listens at."""
    if request.giaddr == ANY:
        return None
    selection = suboptions(request.options.get(Option.RELAY_AGENT_INFORMATION, b"")).get(_LINK_SELECTION)
    if selection is None:
        return request.giaddr
    if len(selection) != 4:
        raise RemoteProtocolError(f"link selection (82.5) has {len(selection)} bytes: expected 4")
    return IPv4Address(selection)


def _boot(request: Packet, given: Assignment) -> Boot | None:
    client = boot_client(request) if given.boots else None
    return None if client is None else Boot(client, boot_file(client, given.loader, given.head))
