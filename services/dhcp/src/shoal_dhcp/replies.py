"""The packets that we answer with (RFC 2131, table 3), option by option. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from shoal_dhcp.assignments import Assignment
from shoal_dhcp.loaders import BootClient, Firmware
from shoal_dhcp4 import ANY, BROADCAST_FLAG, MessageType, Op, Option, Packet, encapsulate

LEASE_TIME: Final = 12 * 3600
"""Seconds. A lease is an assignment of the records: it is renewed as long as the node is registered."""

DISPENSABLE: Final = frozenset(
    {
        Option.TFTP_SERVER_NAME,
        Option.ROUTER,
        Option.DOMAIN_NAME_SERVER,
        Option.HOST_NAME,
        Option.DOMAIN_NAME,
        Option.BROADCAST_ADDRESS,
        Option.CLIENT_MACHINE_IDENTIFIER,
        Option.CLIENT_IDENTIFIER,
    }
)
"""What a client can live without when its buffer is small; the order of `_options` says what goes first: the last."""

_FILE_FIELD: Final = 127
_PXE_DISCOVERY_CONTROL, _USE_BOOT_FILE_NAME = 6, b"\x08"
_IPXE_NO_PXEDHCP: Final = 176


@dataclass(frozen=True, slots=True)
class Boot:
    """Who wants to boot, and the file it is given; None where there is none for its architecture."""

    client: BootClient
    file: str | None


def offer(request: Packet, given: Assignment, boot: Boot | None) -> Packet:
    """DHCPOFFER."""
    return _with_address(request, MessageType.OFFER, given, boot)


def ack(request: Packet, given: Assignment, boot: Boot | None) -> Packet:
    """DHCPACK to a DHCPREQUEST; to a DHCPINFORM it carries neither address nor lease (RFC 2131, section 4.3.5)."""
    return _with_address(request, MessageType.ACK, given, boot)


def nak(request: Packet, given: Assignment, wanted: IPv4Address) -> Packet:
    """DHCPNAK, saying why."""
    options = {
        Option.MESSAGE_TYPE: bytes((MessageType.NAK,)),
        Option.SERVER_IDENTIFIER: given.head.packed,
        Option.MESSAGE: f"{wanted} is not the address of {given.node}".encode()[:255],
        **_echoed(request),
    }
    return Packet(
        op=Op.REPLY,
        xid=request.xid,
        chaddr=request.chaddr,
        options=options,
        htype=request.htype,
        # The relay must broadcast it: the client has no right address to hear it at (RFC 2131, section 4.3.2).
        flags=request.flags | (BROADCAST_FLAG if request.giaddr != ANY else 0),
        giaddr=request.giaddr,
    )


def _with_address(request: Packet, kind: MessageType, given: Assignment, boot: Boot | None) -> Packet:
    inform = request.message_type is MessageType.INFORM
    file = boot.file.encode() if boot and boot.file else b""
    return Packet(
        op=Op.REPLY,
        xid=request.xid,
        chaddr=request.chaddr,
        options=_options(request, kind, given, boot),
        htype=request.htype,
        flags=request.flags,
        ciaddr=request.ciaddr if kind is MessageType.ACK else ANY,
        yiaddr=ANY if inform else given.address,
        siaddr=given.head if given.boots else ANY,
        giaddr=request.giaddr,
        file=file if len(file) <= _FILE_FIELD else b"",
    )


def _options(request: Packet, kind: MessageType, given: Assignment, boot: Boot | None) -> dict[int, bytes]:
    options: dict[int, bytes] = {
        Option.MESSAGE_TYPE: bytes((kind,)),
        Option.SERVER_IDENTIFIER: given.head.packed,
    }
    if request.message_type is not MessageType.INFORM:
        options[Option.LEASE_TIME] = LEASE_TIME.to_bytes(4, "big")
    if boot is not None:
        options |= _boot_options(boot, given)
    return {**options, **given.parameters, **_echoed(request)}


def _boot_options(boot: Boot, given: Assignment) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    if boot.file is not None:
        options[Option.BOOT_FILE_NAME] = boot.file.encode()
        options[Option.TFTP_SERVER_NAME] = str(given.head).encode()
    match boot.client.firmware:
        case Firmware.PXE:
            # With option 60 the offer is a PXE offer: the client would then look for boot servers by itself, unless
            # discovery control tells it to take the boot file given (PXE 2.1, table 2-1, PXE_DISCOVERY_CONTROL bit 3).
            options[Option.VENDOR_CLASS] = Firmware.PXE.encode()
            options[Option.VENDOR_SPECIFIC] = encapsulate({_PXE_DISCOVERY_CONTROL: _USE_BOOT_FILE_NAME})
        case Firmware.HTTP:
            options[Option.VENDOR_CLASS] = Firmware.HTTP.encode()
        case Firmware.IPXE:
            # Spares it the two seconds in which it waits for a ProxyDHCP server's offer.
            options[Option.IPXE_ENCAPSULATED] = encapsulate({_IPXE_NO_PXEDHCP: b"\x01"})
    return options


def _echoed(request: Packet) -> dict[int, bytes]:
    """What comes back as it was sent: machine and client identifier (RFC 4578, RFC 6842), and last, as RFC 3046 wants
    it, the relay's information.
    """
    codes = (Option.CLIENT_MACHINE_IDENTIFIER, Option.CLIENT_IDENTIFIER, Option.RELAY_AGENT_INFORMATION)
    return {code: request.options[code] for code in codes if code in request.options}
