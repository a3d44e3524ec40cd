"""The supervisor with made-up programs: readiness, restarts, draining, and nothing left when it is killed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal_cli.up import machine, plan
from shoal_cli.up.process import Process
from shoal_cli.up.supervisor import Supervisor

PROGRAM = """
import http.server, os, signal, sys, threading, time
mode, port = sys.argv[1], int(sys.argv[2])
print("hello \\x1b[31m" + mode, flush=True)
if mode == "crash": sys.exit(3)
if mode == "badly-set": print("SHOAL_X: no such thing", flush=True); sys.exit(2)
if mode == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "good": signal.signal(signal.SIGTERM, lambda *_: (print("drained", flush=True), os._exit(0)))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def program(name: str, mode: str) -> plan.Program:
    port = free_port()
    argv = (sys.executable, "-c", PROGRAM, mode, str(port))
    return plan.Program(name, argv, dict(os.environ), f"http://127.0.0.1:{port}/readyz")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Supervisor:
    return Supervisor(tmp_path, said.append)


async def until(true: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(0.05)


async def test_it_waits_for_answers_starts_again_what_dies_and_drains_in_order(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    bus, service = supervisor.start(program("bus", "good")), supervisor.start(program("service", "good"))
    async with asyncio.timeout(20):
        await supervisor.answering([bus, service])
    assert {"bus is ready", "service is ready"} <= set(said)
    assert "      service | hello \\x1b[31mgood" in said
    first = service.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: service.pid not in (None, first))
    assert service.restarts == 1
    assert any(line.startswith("service ended with signal 9; restart 1 in ") for line in said)
    async with asyncio.timeout(20):
        await supervisor.answering([service])
    await supervisor.drain()
    assert (bus.pid, service.pid) == (None, None)
    drained = [line for line in said if line.endswith("| drained")]
    assert drained == ["      service | drained", "          bus | drained"]
    assert said[-1] == "stopped (restarts: service 1)"
    assert (tmp_path / "service.log").read_text().splitlines()[0] == "hello \x1b[31mgood"


async def test_wrong_settings_end_it_with_what_the_service_said(supervisor: Supervisor, said: list[str]) -> None:
    async def story() -> None:
        await supervisor.answering([supervisor.start(program("service", "badly-set"))])

    with pytest.raises(plan.CannotStart, match=r"service refuses its settings: .*SHOAL_X: no such thing"):
        await supervisor.live(story)
    await supervisor.drain()


async def test_a_program_that_is_not_there_ends_it(supervisor: Supervisor) -> None:
    async def story() -> None:
        await supervisor.answering([supervisor.start(plan.Program("x", ("/nowhere/x",), {}, "http://127.0.0.1:1/"))])

    with pytest.raises(plan.CannotStart, match="cannot run /nowhere/x: No such file"):
        await supervisor.live(story)
    await supervisor.drain()


async def test_what_keeps_failing_is_started_less_and_less_often(tmp_path: Path, said: list[str]) -> None:
    process = Process(program("service", "crash"), tmp_path / "log", said.append)
    keeping = asyncio.create_task(process.keep())
    await until(lambda: process.restarts >= 3)
    await process.stop(1)
    await keeping
    delays = [float(line.split(" in ")[1].split(" s ")[0]) for line in said if "ended with exit status 3" in line]
    assert delays[0] <= 0.5 <= delays[2] <= 2.0


async def test_a_disk_without_room_for_a_log_ends_no_program(tmp_path: Path, said: list[str]) -> None:
    log = tmp_path / "log"
    log.symlink_to("/dev/full")
    process = Process(program("service", "good"), log, said.append)
    keeping = asyncio.create_task(process.keep())
    await until(lambda: any("| hello" in line for line in said))
    assert process.pid is not None
    assert not keeping.done()
    await process.stop(10)
    await keeping
    told = [line for line in said if "cannot write" in line]
    assert len(told) == 1
    assert told[0].startswith(f"cannot write {log}: No space left on device")
    assert said[-1] == "      service | drained"


async def test_what_does_not_end_is_killed(tmp_path: Path, said: list[str]) -> None:
    process = Process(program("service", "deaf"), tmp_path / "log", said.append)
    keeping = asyncio.create_task(process.keep())
    await until(lambda: any("hello" in line for line in said))
    await process.stop(0.2)
    await keeping
    assert "service did not end within 0 s: killed" in said
    assert process.pid is None


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    parent = (
        "import asyncio, sys; from pathlib import Path; from shoal_cli.up.process import Process\n"
        "from shoal_cli.up.plan import Program\n"
        "argv = (sys.executable, '-c', 'import time; print(\"up\", flush=True); time.sleep(600)')\n"
        "process = Process(Program('child', argv, {}, ''), Path(sys.argv[1]), lambda line: None)\n"
        "async def main():\n"
        "    task = asyncio.create_task(process.keep())\n"
        "    while not process.latest: await asyncio.sleep(0.01)\n"
        "    print(process.pid, flush=True)\n"
        "    await task\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent, str(tmp_path / "log")], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        supervisor.kill()
    deadline = time.monotonic() + 10
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_on_one_state_directory_are_refused(tmp_path: Path) -> None:
    assert machine.owner(tmp_path) is None
    with machine.locked(tmp_path):
        assert machine.owner(tmp_path) == os.getpid()
        complaint = f"another `shoal up` \\(process {os.getpid()}\\)"
        with pytest.raises(plan.CannotStart, match=complaint), machine.locked(tmp_path):
            pass
    with machine.locked(tmp_path):
        pass
    assert machine.owner(tmp_path) is None


def test_interfaces_and_addresses() -> None:
    assert "127.0.0.1" in machine.addresses("lo")
    with pytest.raises(plan.CannotStart, match="no interface 'shoal-nope'"):
        machine.addresses("shoal-nope")


def test_the_embedded_bus_server_is_found_and_new_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert machine.nats_server() != old
    old.write_text("#!/bin/sh\necho nats-server: v2.12.0\n")
    assert machine.nats_server() == old
