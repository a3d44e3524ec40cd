"""shoal-dhcp itself on a segment of the lab, its records, and machines beside it."""

import asyncio
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from lab.inside import inside
from lab.nats_server import NatsServer
from lab.net import Lan
from lab.space import Here, LabError, Namespace, Running, run
from shoal_bus import codec
from shoal_bus.api import Bus, Write
from shoal_model.records import Cluster, Kind, compact, record_key

METRICS = "127.0.0.1:9103"
SHOAL_DHCP = str(Path(sys.executable).parent / "shoal-dhcp")


async def register(bus: Bus, records: Cluster) -> None:
    """Put records into the bucket as the registry does: one batch, `head` last."""
    store = await bus.store("records")
    writes = [
        Write(record_key(kind, name), codec.pack(compact(record)))
        for kind, section in ((Kind.NETWORK, records.networks), (Kind.NODE, records.nodes))
        for name, record in section.items()
    ]
    head = {"revision": 1, "author": "test", "at": datetime.now(UTC).isoformat(), "change": "c1"}
    await store.commit([*writes, Write("head", codec.pack(head))])


@asynccontextmanager
async def dhcp_service(lan: Lan, nats_server: NatsServer, folder: Path) -> AsyncIterator[Running]:
    """shoal-dhcp on the head's side of a segment, from when it is ready; its log is `<folder>/dhcp.log`."""
    environment = {"SHOAL_NATS": nats_server.url, "SHOAL_INTERFACE": lan.bridge, "SHOAL_STATE": str(folder / "state")}
    with (folder / "dhcp.log").open("ab") as log:
        running = Running(lan.space, [SHOAL_DHCP], env=environment, stderr=log)
    try:
        await _until_ready(running, folder / "dhcp.log")
        yield running
    finally:
        running.stop()


async def _until_ready(running: Running, log: Path) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        while True:
            if not running.running:
                raise LabError(f"shoal-dhcp ended; its log is {log}")
            try:
                async with http.get(f"http://{METRICS}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


async def counted(pattern: str) -> float:
    """The sum of those metrics of the service whose name and labels match."""
    async with aiohttp.ClientSession() as http, http.get(f"http://{METRICS}/metrics") as answer:
        return sum(float(value) for value in re.findall(rf"^{pattern} ([0-9.e+]+)$", await answer.text(), re.MULTILINE))


async def eventually(question: Callable[[], Awaitable[bool]], timeout: float = 10.0) -> None:
    """Return when the answer is yes. TimeoutError if it never is."""
    async with asyncio.timeout(timeout):
        while True:
            if await question():
                return
            await asyncio.sleep(0.05)


async def said(lan: Lan, *argv: str, timeout: float = 30.0) -> str:
    """What a program in the namespace says, stdout and stderr; the loop goes on meanwhile."""
    process = await asyncio.create_subprocess_exec(
        *lan.space.command(argv), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(timeout):
        text, _ = await process.communicate()
    return text.decode(errors="replace")


@contextmanager
def machine(lan: Lan, mac: str) -> Iterator[Namespace]:
    """A machine of its own with one NIC, `eth0`, on the segment; the caller gives it addresses."""
    port = lan.client("m0", mac)
    with Namespace() as space:
        run(Here(), "ip", "link", "set", port, "netns", space.command(())[2])
        run(space, "ip", "link", "set", port, "name", "eth0", "up")
        yield space


class Station:
    """A NIC on the segment that sends and hears whole frames."""

    def __init__(self, lan: Lan, mac: str) -> None:
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # nothing is heard before bind
        self._socket.setblocking(False)
        self._socket.bind((lan.client("s0", mac), 0x0800))
        deadline = time.monotonic() + 10
        while "state forwarding" not in run(lan.space, "bridge", "link", "show", "dev", "s0p"):
            # until then frames are lost
            if time.monotonic() > deadline:
                raise LabError("the bridge does not forward for s0p")
            time.sleep(0.02)

    def close(self) -> None:
        self._socket.close()

    def send(self, packet: bytes) -> None:
        """Broadcast an IP packet."""
        self._socket.send(b"\xff" * 6 + self._mac + b"\x08\0" + packet)

    async def hear(self, timeout: float = 5.0) -> tuple[bytes, bytes]:
        """The next IP packet that was not sent here: its frame's destination, and the packet. TimeoutError if none."""
        async with asyncio.timeout(timeout):
            while True:
                frame = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
                if frame[6:12] != self._mac:
                    return frame[:6], frame[14:]


async def exchange(space: Namespace, address: str, data: bytes, *, port: int) -> tuple[bytes, str, int]:
    """Send a DHCP packet from a machine's address to the head; what comes back to that port, and from where."""
    with inside(space):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with udp:
        udp.setblocking(False)
        udp.bind((address, port))
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(udp, data, ("10.77.0.1", 67))
        async with asyncio.timeout(5):
            answer, (source, source_port) = await loop.sock_recvfrom(udp, 4096)
    return answer, source, source_port
