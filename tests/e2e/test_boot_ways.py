"""Firmware and NICs: every way in which a machine comes to its loader ends in a running system."""

import pytest

from lab.boots import BootLab
from lab.node import Firmware
from shoal_model.subjects import Stage

pytestmark = [pytest.mark.boot, pytest.mark.e2e]

WAYS = [
    # firmware, NIC, loader as recorded, what the firmware is given, door of kernel and initrd
    (Firmware.UEFI_PXE, "virtio-net-pci", "auto", "snponly.efi", "http"),
    (Firmware.UEFI_HTTP, "virtio-net-pci", "auto", "http://10.77.0.1:8080/snponly.efi", "http"),
    (Firmware.BIOS, "e1000e", "auto", "http://10.77.0.1:8080/boot.ipxe", "http"),
    (Firmware.BIOS, "rtl8139", "pxelinux", "pxelinux.0", "tftp"),
]


@pytest.mark.parametrize(("firmware", "model", "loader", "given", "door"), WAYS)
def test_a_machine_comes_up(boots: BootLab, firmware: Firmware, model: str, loader: str, given: str, door: str) -> None:
    name = f"{firmware}-{model}"
    machine = boots.register(name, f"boot.loader={loader}", firmware=firmware, model=model)
    with boots.on(machine) as running:
        running.until(Stage.SYSTEMD_RUNNING)
        story = boots.story(name)
        driver = boots.says(name, "readlink", "/sys/class/net/boot0/device/driver").strip().rpartition("/")[2]
        efi = boots.says(name, "sh", "-c", "test -d /sys/firmware/efi && echo yes || echo no").strip()
    assert [event for event in story["events"] if event["status"] != "ok"] == []
    assert list(dict.fromkeys(event["stage"] for event in story["events"])) == list(Stage)
    offered = [event["details"]["loader"] for event in story["events"] if event["stage"] == Stage.DHCP_OFFER]
    assert given in offered
    doors = {event["details"]["door"] for event in story["events"] if event["stage"].startswith("loader.")}
    assert doors == {door}
    assert driver == {"virtio-net-pci": "virtio_net", "rtl8139": "8139cp"}.get(model, model)
    assert (efi == "yes") == (firmware is not Firmware.BIOS)
