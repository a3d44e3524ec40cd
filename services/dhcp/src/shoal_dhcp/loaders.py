"""Which boot file a client gets: by its firmware, its architecture, and the node's loader setting. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final

from shoal_dhcp4 import Architecture, Option, Packet
from shoal_model import ports
from shoal_model.records import Loader

PXELINUX: Final = "pxelinux.0"
UNDIONLY: Final = "undionly.kpxe"
IPXE_SCRIPT: Final = "boot.ipxe"
UEFI_LOADERS: Final = {
    Architecture.X64_UEFI: "snponly.efi",
    Architecture.EBC: "snponly.efi",
    Architecture.X64_UEFI_HTTP: "snponly.efi",
    Architecture.ARM64_UEFI: "snponly-arm64.efi",
    Architecture.ARM64_UEFI_HTTP: "snponly-arm64.efi",
}
_ARCHITECTURE_IN_CLASS = re.compile(rb"(?:PXE|HTTP)Client:Arch:(\d{5})")


class Firmware(StrEnum):
    """What asks for a boot file. The values of PXE and HTTP are their vendor classes, which answers must echo."""

    PXE = "PXEClient"
    HTTP = "HTTPClient"
    IPXE = "iPXE"


@dataclass(frozen=True, slots=True)
class BootClient:
    """A client that wants to boot. `vendor_class` is printable."""

    firmware: Firmware
    architecture: int | None
    vendor_class: str


def boot_client(request: Packet) -> BootClient | None:
    """Whether a request comes from firmware or iPXE, and from which; None for an operating system's client.

    Raises RemoteProtocolError for a malformed option 93.
    """
    vendor_class = request.options.get(Option.VENDOR_CLASS, b"")
    if _is_ipxe(request):
        firmware = Firmware.IPXE
    elif vendor_class.startswith(b"PXEClient"):
        firmware = Firmware.PXE
    elif vendor_class.startswith(b"HTTPClient"):
        firmware = Firmware.HTTP
    else:
        return None
    return BootClient(firmware, architecture(request), printable(vendor_class))


def architecture(request: Packet) -> int | None:
    """Option 93, or what old firmware says in its vendor class alone (`PXEClient:Arch:00000:UNDI:002001`)."""
    told = request.architecture
    if told is not None:
        return told
    match = _ARCHITECTURE_IN_CLASS.match(request.options.get(Option.VENDOR_CLASS, b""))
    return int(match[1]) if match else None


def boot_file(client: BootClient, loader: Loader, head: IPv4Address) -> str | None:
    """The boot file: a TFTP path, or a URL for who can take one. None if there is no loader for the architecture."""
    bios = client.architecture in (Architecture.X86_BIOS, None)
    match client.firmware:
        case Firmware.IPXE:
            return PXELINUX if bios and loader is Loader.PXELINUX else _url(head, IPXE_SCRIPT)
        case Firmware.PXE if bios:
            return UNDIONLY if loader is Loader.IPXE else PXELINUX
        case Firmware.PXE:
            return _uefi_loader(client)
        case Firmware.HTTP:
            name = _uefi_loader(client)
            return None if name is None else _url(head, name)


def printable(text: bytes) -> str:
    """A client's text for logs and events: what is not printable ASCII becomes a question mark."""
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "?" for octet in text)


def _uefi_loader(client: BootClient) -> str | None:
    try:
        return UEFI_LOADERS.get(Architecture(client.architecture)) if client.architecture is not None else None
    except ValueError:
        return None


def _is_ipxe(request: Packet) -> bool:
    # iPXE sends its user class bare; RFC 3004 would have a length octet before it.
    return Option.IPXE_ENCAPSULATED in request.options or request.options.get(Option.USER_CLASS) in (
        b"iPXE",
        b"\x04iPXE",
    )


def _url(head: IPv4Address, name: str) -> str:
    return f"http://{head}:{ports.BOOT_HTTP}/{name}"
