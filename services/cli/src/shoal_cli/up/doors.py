"""The ports of a head: which it needs, whether they can be had, and which process listens at one."""

import errno
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal_cli.terminal import safe
from shoal_cli.up.plan import NATS_MONITOR, CannotStart, Head, metrics
from shoal_model import ports

_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
_PATIENCE = 3.0  # seconds that the children of a head which was killed may take to be gone
_POLL = 0.1


@dataclass(frozen=True)
class Door:
    """An IPv4 address and port that something listens at; `purpose` is for people."""

    kind: socket.SocketKind
    host: str
    port: int
    purpose: str

    def __str__(self) -> str:
        return f"{'udp' if self.kind is socket.SOCK_DGRAM else 'tcp'} {self.host}:{self.port} ({self.purpose})"


def needed(head: Head, listen: str) -> list[Door]:
    """What a head listens at; `listen` is where nodes are answered. DHCP is left out: its socket shares its port."""
    monitor_host, _, monitor_port = NATS_MONITOR.rpartition(":")
    return [
        Door(socket.SOCK_STREAM, head.address, ports.NATS, "the bus"),
        Door(socket.SOCK_STREAM, monitor_host, int(monitor_port), "the bus server's health"),
        *(Door(socket.SOCK_STREAM, "127.0.0.1", port, f"{name}'s health") for name, _, port in metrics()),
        Door(socket.SOCK_DGRAM, listen, ports.TFTP, "TFTP"),
        Door(socket.SOCK_STREAM, listen, ports.BOOT_HTTP, "boot files"),
        Door(socket.SOCK_STREAM, listen, ports.IMAGE_HTTP, "images"),
        Door(socket.SOCK_STREAM, listen, ports.OPTIONS_HTTP, "options"),
    ]


def require_free(doors: Sequence[Door], patience: float = _PATIENCE) -> None:
    """Raises CannotStart, naming port and process, if one of these is still taken after `patience` seconds."""
    deadline = time.monotonic() + patience
    while taken := [door for door in doors if _taken(door)]:
        if time.monotonic() < deadline:
            time.sleep(_POLL)
            continue
        told = ", ".join(f"{door} by {_holder(door)}" for door in taken)
        raise CannotStart(
            f"ports that a head needs are taken: {told}. Is another head running on this machine? "
            "End it with `shoal down --state DIR`; a machine has room for one"
        )


def listens(pid: int, port: int) -> bool:
    """Whether one of this process's own sockets is listening at TCP `port`."""
    wanted = set(_inodes(socket.SOCK_STREAM, port))
    return bool(wanted) and not wanted.isdisjoint(_sockets(Path("/proc", str(pid))))


def _taken(door: Door) -> bool:
    with socket.socket(socket.AF_INET, door.kind) as trial:
        if door.kind is socket.SOCK_STREAM:
            # As servers do: connections of the past, in TIME_WAIT, are in nobody's way; for UDP it means sharing.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((door.host, door.port))
            if door.kind is socket.SOCK_STREAM:
                trial.listen()
        except OSError as error:
            # Anything else, such as an address that is not ours, its service tells better.
            return error.errno == errno.EADDRINUSE
    return False


def _holder(door: Door) -> str:
    wanted = set(_inodes(door.kind, door.port))
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and not wanted.isdisjoint(_sockets(process)):
            try:
                name = (process / "comm").read_text(encoding="utf-8", errors="backslashreplace").strip()
            except OSError:  # it has just ended
                continue
            return f"process {process.name} ({safe(name)})"
    return "a process that cannot be seen from here"


def _inodes(kind: socket.SocketKind, port: int) -> Iterator[str]:
    """The sockets bound to a port: proc_net_tcp(5), columns `sl local_address rem_address st … inode`."""
    name = "udp" if kind is socket.SOCK_DGRAM else "tcp"
    for table in (Path("/proc/self/net", name), Path("/proc/self/net", f"{name}6")):
        if not table.exists():  # a kernel without IPv6
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and (name == "udp" or fields[3] == _LISTENING):
                yield fields[9]


def _sockets(process: Path) -> Iterator[str]:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:  # ended, or not ours to look into
        return
    for descriptor in descriptors:
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))
        except OSError:  # closed in the meantime
            continue
        if found:
            yield found[1]
