"""The ports of a head: taken ones are refused by name, and answers of strangers count for nothing."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal_cli.up import doors, plan
from shoal_cli.up.supervisor import Supervisor

HEAD = plan.Head("br0", "127.0.0.1", Path("/nowhere"))

ANSWERS = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_head_needs_every_port_that_something_else_could_answer_at() -> None:
    found = {(door.host, door.port) for door in doors.needed(plan.Head("br0", "10.77.0.1", Path("/x")), "0.0.0.0")}
    assert found == {
        ("10.77.0.1", 4222),
        ("127.0.0.1", 8222),
        *(("127.0.0.1", port) for port in range(9101, 9110)),
        *(("0.0.0.0", port) for port in (69, 8080, 8081, 8082)),
    }


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_refused_with_the_process_that_has_it(kind: socket.SocketKind, host: str) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind is socket.SOCK_STREAM))
        other.bind((host, 0))
        if kind is socket.SOCK_STREAM:
            other.listen()
        door = doors.Door(kind, "127.0.0.1", other.getsockname()[1], "the test")
        name = "udp" if kind is socket.SOCK_DGRAM else "tcp"
        told = rf"{name} 127\.0\.0\.1:{door.port} \(the test\) by process {os.getpid()} \("
        with pytest.raises(plan.CannotStart, match=told):
            doors.require_free([door], patience=0)
    doors.require_free([door], patience=0)


def test_what_is_about_to_end_is_waited_for() -> None:
    script = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    with subprocess.Popen([sys.executable, "-c", f"{script}; time.sleep(0.5)"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        door = doors.Door(socket.SOCK_STREAM, "127.0.0.1", int(child.stdout.readline()), "the test")
        doors.require_free([door], patience=20)


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a process that answers 200 to everything."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with subprocess.Popen([sys.executable, "-c", ANSWERS, str(port)]) as process:
        deadline = time.monotonic() + 20
        while not doors.listens(process.pid, port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
        process.kill()


async def test_the_answer_of_another_process_makes_no_program_ready(tmp_path: Path, stranger: int) -> None:
    supervisor = Supervisor(tmp_path, lambda line: None)
    argv = (sys.executable, "-c", "import time; time.sleep(600)")
    process = supervisor.start(plan.Program("x", argv, dict(os.environ), f"http://127.0.0.1:{stranger}/"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await supervisor.answering([process])
    assert not process.was_ready
    await supervisor.drain()
