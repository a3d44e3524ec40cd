"""A bus whose disk was full, and programs that stop answering: told with the reason, and helped where that can be."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import APIError

from shoal_cli.up import health, machine, plan
from shoal_cli.up.supervisor import Supervisor

SICK = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 500); self.end_headers()
        self.wfile.write(b"the heart\\n\\x1b[31mis broken")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def until(true: Callable[[], bool], said: list[str], seconds: float = 30) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 - other processes set no event of ours
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail("\n".join(said[-30:]))


async def test_an_unwell_service_is_told_of_once_with_what_it_says(tmp_path: Path) -> None:
    said: list[str] = []
    url = f"http://127.0.0.1:{free_port()}"
    argv = (sys.executable, "-c", SICK, url.rpartition(":")[2])
    supervisor = Supervisor(tmp_path, said.append)
    process = supervisor.start(plan.Program("x", argv, dict(os.environ), f"{url}/readyz", alive=f"{url}/healthz"))
    async with asyncio.timeout(20):
        await supervisor.answering([process])
    watching = asyncio.create_task(health.watch([process], tmp_path, said.append, period=0.1))
    told = f"x is not healthy: {url} answers 500: the heart \\x1b[31mis broken"
    await until(lambda: told in said, said)
    await asyncio.sleep(0.5)
    watching.cancel()
    await supervisor.drain()
    assert said.count(told) == 1
    assert process.restarts == 0


async def fill_up(client: Client) -> None:
    """Store more than the disk takes."""
    for _ in range(400):
        await client.jetstream().publish("s", b"x" * 500_000, timeout=5)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "shoal-test", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.integration
async def test_a_bus_whose_disk_was_full_takes_writes_again_once_there_is_room(small_disk: Path) -> None:
    said: list[str] = []
    port, monitor = free_port(), f"127.0.0.1:{free_port()}"
    config = small_disk / "nats.conf"
    config.write_text(
        f"listen: 127.0.0.1:{port}\nhttp: {monitor!r}\n"
        f"jetstream {{ store_dir: '{small_disk}/nats', max_file_store: 1GB, sync_interval: always }}\n"
    )
    supervisor = Supervisor(small_disk.parent, said.append)
    alive = f"http://{monitor}/healthz"
    argv = (str(machine.nats_server()), "--config", str(config))
    bus = supervisor.start(plan.Program("bus", argv, dict(os.environ), alive, alive=alive, restart_helps=True))
    async with asyncio.timeout(30):
        await supervisor.answering([bus])
    client = await nats.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    await client.jetstream().add_stream(name="s", subjects=["s"])
    fill = small_disk / "fill"
    with pytest.raises(OSError, match="No space left"):
        fill.write_bytes(b"x" * (200 << 20))
    with pytest.raises((APIError, TimeoutError)):
        await fill_up(client)
    watching = asyncio.create_task(health.watch([bus], small_disk, said.append, period=0.1))
    full = f"the disk of {small_disk} is full (0 MiB free): make room"
    await until(lambda: any("bus is not healthy: " in line and full in line for line in said), said)
    assert bus.restarts == 0
    fill.unlink()
    await until(lambda: "bus is healthy again" in said, said)
    assert bus.restarts == 1
    async with asyncio.timeout(20):
        while not client.is_connected:  # noqa: ASYNC110 - the client has no event for it
            await asyncio.sleep(0.05)
    await client.jetstream().publish("s", b"again", timeout=10)
    watching.cancel()
    await client.close()
    await supervisor.drain()
