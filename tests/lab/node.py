"""A virtual node: QEMU without hardware virtualisation, booting from the network as machines of its firmware do."""

import contextlib
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from lab.space import LabError, Running, Space

_OVMF = Path("/usr/share/OVMF")


class Firmware(StrEnum):
    """How a machine comes up."""

    BIOS = "bios"
    UEFI_PXE = "uefi-pxe"
    UEFI_HTTP = "uefi-http"


@dataclass(frozen=True)
class Nic:
    """A NIC: the tap it is plugged into, its MAC, its model. The first NIC of a node is the one it boots from."""

    tap: str
    mac: str
    model: str = "virtio-net-pci"


@dataclass(frozen=True)
class Machine:
    """What a virtual node is made of. Memory in MiB."""

    name: str
    nics: tuple[Nic, ...]
    memory: int = 1536
    firmware: Firmware = Firmware.BIOS


class VirtualNode:
    """A machine that is on from `start` to `stop`. Its serial console goes to `<folder>/<name>.console.log`."""

    def __init__(self, space: Space, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.console = folder / f"{machine.name}.console.log"
        self._space, self._folder = space, folder
        self._socket = folder / f"{machine.name}.console.sock"
        self._qemu: Running | None = None

    def start(self) -> Self:
        """Switch it on; the console log begins anew."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.console.write_bytes(b"")
        self._socket.unlink(missing_ok=True)
        with (self._folder / f"{self.machine.name}.qemu.log").open("wb") as log:
            self._qemu = Running(self._space, self._arguments(), stdout=log, stderr=log)
        return self

    @property
    def running(self) -> bool:
        """Whether it is on."""
        return self._qemu is not None and self._qemu.running

    def stop(self) -> None:
        """Pull the plug."""
        if self._qemu is not None:
            self._qemu.stop(5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def text(self) -> str:
        """What the console has shown so far."""
        return self.console.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, timeout: float) -> None:
        """Return once the console has shown `text`. Raises LabError with its end if it does not, or QEMU ends."""
        deadline = time.monotonic() + timeout
        while text not in self.text():
            if time.monotonic() > deadline or not self.running:
                state = "is running" if self.running else f"has ended: {self._said()}"
                raise LabError(
                    f"{self.machine.name}: {text!r} is not on the console after {timeout:.0f} s; QEMU {state}\n"
                    f"{self.tail()}"
                )
            time.sleep(0.2)

    def tail(self, lines: int = 30) -> str:
        """The end of what the console has shown."""
        shown = [line.strip("\r") for line in self.text().split("\n")]
        return "\n".join([line for line in shown if line][-lines:])

    def type(self, line: str, timeout: float = 30.0) -> None:
        """Type a line on the serial console and return when it was echoed. Raises LabError if it is not.

        The line is lost with the connection if that ends before the machine has taken it: 16 characters at a time.
        """
        with socket.socket(socket.AF_UNIX) as keyboard:
            keyboard.settimeout(timeout)
            keyboard.connect(str(self._socket))
            keyboard.sendall(f"{line}\n".encode())
            shown = b""
            with contextlib.suppress(TimeoutError):
                while line.encode() not in shown and (more := keyboard.recv(4096)):
                    shown += more
        if line.encode() not in shown:
            raise LabError(f"{self.machine.name}: nobody took {line!r} from the console\n{self.tail()}")

    def _said(self) -> str:
        return (self._folder / f"{self.machine.name}.qemu.log").read_text(errors="replace").strip()[-2000:]

    def _arguments(self) -> list[str]:
        console = f"socket,id=console,path={self._socket},server=on,wait=off,logfile={self.console},logappend=on"
        return [
            *("qemu-system-x86_64", "-name", self.machine.name),
            *("-machine", "pc" if self.machine.firmware is Firmware.BIOS else "q35"),
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(self.machine.memory)),
            *("-nographic", "-monitor", "none", "-chardev", console, "-serial", "chardev:console"),
            *("-boot", "n"),
            *self._firmware(),
            *(part for index, nic in enumerate(self.machine.nics) for part in self._nic(index, nic)),
        ]

    def _nic(self, index: int, nic: Nic) -> Sequence[str]:
        device = f"{nic.model},netdev=n{index},mac={nic.mac}"
        if self.machine.firmware is not Firmware.BIOS or index > 0:
            device += ",romfile="  # QEMU's option ROM is an iPXE that would boot instead of the firmware's own PXE
        if index == 0:
            device += ",bootindex=1"
        return ("-netdev", f"tap,id=n{index},ifname={nic.tap},script=no,downscript=no", "-device", device)

    def _firmware(self) -> list[str]:
        if self.machine.firmware is Firmware.BIOS:
            return []
        variables = self._folder / f"{self.machine.name}.vars.fd"
        shutil.copyfile(_OVMF / "OVMF_VARS_4M.fd", variables)
        code = f"if=pflash,format=raw,readonly=on,file={_OVMF / 'OVMF_CODE_4M.fd'}"
        result = ["-drive", code, "-drive", f"if=pflash,format=raw,file={variables}"]
        if self.machine.firmware is Firmware.UEFI_HTTP:
            for family in ("IPv4", "IPv6"):  # else the firmware tries PXE first, for two minutes
                result += ["-fw_cfg", f"name=opt/org.tianocore/{family}PXESupport,string=n"]
        return result
