"""Which boot file, and which options beside it, each kind of firmware gets."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.dhcp_cluster import cluster, find_in
from lab.dhcp_packets import captured, request
from shoal_dhcp.answers import Reply, answer
from shoal_dhcp.loaders import BootClient, Firmware, boot_client, boot_file, printable
from shoal_dhcp4 import MessageType, Option, Packet, decode
from shoal_model.records import Loader

HEAD = IPv4Address("10.77.0.1")
SCRIPT = "http://10.77.0.1:8080/boot.ipxe"
PXE, HTTP, IPXE = Firmware.PXE, Firmware.HTTP, Firmware.IPXE
AUTO, PXELINUX, CHAIN = Loader.AUTO, Loader.PXELINUX, Loader.IPXE


@pytest.mark.parametrize(
    ("firmware", "architecture", "loader", "expected"),
    [
        (PXE, 0, AUTO, "pxelinux.0"),
        (PXE, 0, PXELINUX, "pxelinux.0"),
        (PXE, 0, CHAIN, "undionly.kpxe"),
        (PXE, None, AUTO, "pxelinux.0"),
        (PXE, 7, AUTO, "snponly.efi"),
        (PXE, 9, AUTO, "snponly.efi"),
        (PXE, 7, PXELINUX, "snponly.efi"),
        (PXE, 7, CHAIN, "snponly.efi"),
        (PXE, 11, AUTO, "snponly-arm64.efi"),
        (PXE, 6, AUTO, None),
        (PXE, 10, AUTO, None),
        (PXE, 65535, AUTO, None),
        (HTTP, 16, AUTO, "http://10.77.0.1:8080/snponly.efi"),
        (HTTP, 16, PXELINUX, "http://10.77.0.1:8080/snponly.efi"),
        (HTTP, 19, AUTO, "http://10.77.0.1:8080/snponly-arm64.efi"),
        (HTTP, 15, AUTO, None),
        (HTTP, None, AUTO, None),
        (IPXE, 0, AUTO, SCRIPT),
        (IPXE, 0, CHAIN, SCRIPT),
        (IPXE, 0, PXELINUX, "pxelinux.0"),
        (IPXE, None, PXELINUX, "pxelinux.0"),
        (IPXE, 7, AUTO, SCRIPT),
        (IPXE, 7, PXELINUX, SCRIPT),
        (IPXE, 11, CHAIN, SCRIPT),
    ],
)
def test_the_boot_file(firmware: Firmware, architecture: int | None, loader: Loader, expected: str | None) -> None:
    assert boot_file(BootClient(firmware, architecture, ""), loader, HEAD) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({Option.VENDOR_CLASS: b"udhcp 1.35.0"}, None),
        ({Option.CLIENT_ARCHITECTURE: b"\0\x07"}, None),
        ({Option.VENDOR_CLASS: b"PXEClient"}, (PXE, None)),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003016"}, (PXE, 7)),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00000", Option.CLIENT_ARCHITECTURE: b"\0\x09"}, (PXE, 9)),
        ({Option.VENDOR_CLASS: b"PXEClient", Option.CLIENT_ARCHITECTURE: b"\0\x07\0\x0b"}, (PXE, 7)),
        ({Option.VENDOR_CLASS: b"HTTPClient:Arch:00016:UNDI:003000"}, (HTTP, 16)),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00000", Option.USER_CLASS: b"iPXE"}, (IPXE, 0)),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00000", Option.USER_CLASS: b"\x04iPXE"}, (IPXE, 0)),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00000", Option.USER_CLASS: b"other"}, (PXE, 0)),
        ({Option.VENDOR_CLASS: b"HTTPClient:Arch:00016", Option.IPXE_ENCAPSULATED: b""}, (IPXE, 16)),
    ],
)
def test_who_asks(options: dict[int, bytes], expected: tuple[Firmware, int | None] | None) -> None:
    client = boot_client(request(MessageType.DISCOVER, options))
    assert (None if client is None else (client.firmware, client.architecture)) == expected


def offer_to(client: str, **settings: object) -> Packet:
    packet = decode(captured(f"{client}-discover"))
    mac = packet.chaddr.hex(":")
    decision = answer(packet, find_in(cluster(mac=mac, **settings)), current=True)
    assert isinstance(decision, Reply)
    return decision.packet


def test_captured_bios_ipxe_gets_the_script_and_is_told_not_to_wait_for_proxydhcp() -> None:
    offer = offer_to("ipxe-bios")
    assert (offer.file, offer.options[Option.BOOT_FILE_NAME]) == (SCRIPT.encode(),) * 2
    assert offer.options[Option.IPXE_ENCAPSULATED] == bytes.fromhex("b00101ff")
    assert not offer.options.keys() & {Option.VENDOR_CLASS, Option.VENDOR_SPECIFIC}


def test_captured_bios_ipxe_gets_pxelinux_where_the_node_wants_it() -> None:
    offer = offer_to("ipxe-bios", boot={"loader": "pxelinux"})
    assert (offer.file, str(offer.siaddr), offer.options[Option.TFTP_SERVER_NAME]) == (
        b"pxelinux.0",
        "10.77.0.1",
        b"10.77.0.1",
    )


def test_captured_uefi_pxe_gets_a_pxe_offer_that_tells_it_to_take_the_file() -> None:
    offer = offer_to("ovmf-pxe")
    assert offer.file == b"snponly.efi"
    assert offer.options[Option.VENDOR_CLASS] == b"PXEClient"
    assert offer.options[Option.VENDOR_SPECIFIC] == bytes.fromhex("060108ff")
    assert offer.options[Option.CLIENT_MACHINE_IDENTIFIER] == bytes(17)


def test_captured_uefi_http_gets_a_url_and_its_class_back() -> None:
    offer = offer_to("ovmf-http")
    assert offer.file == b"http://10.77.0.1:8080/snponly.efi"
    assert offer.options[Option.BOOT_FILE_NAME] == offer.file
    assert offer.options[Option.VENDOR_CLASS] == b"HTTPClient"
    assert Option.VENDOR_SPECIFIC not in offer.options


@pytest.mark.parametrize("client", ["udhcpc", "dhclient"])
def test_captured_clients_of_operating_systems_get_nothing_to_boot(client: str) -> None:
    offer = offer_to(client)
    assert offer.file == b""
    assert not offer.options.keys() & {Option.BOOT_FILE_NAME, Option.VENDOR_CLASS, Option.TFTP_SERVER_NAME}


@given(st.binary(max_size=300))
def test_texts_of_clients_are_made_printable(text: bytes) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
