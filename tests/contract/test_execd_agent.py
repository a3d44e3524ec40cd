"""The resident agent of a node on a real bus: it announces reboots, and carries out a command once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab import loggers
from lab.nats_server import NatsServer
from shoal_bus.api import Endpoint
from shoal_bus.connection import connect
from shoal_bus.nats import NatsBus
from shoal_execd import handover, processes, resident
from shoal_execd.handover import BootState
from shoal_execd.identity import Identity
from shoal_execd.journal import Journal
from shoal_execd.settings import Settings
from shoal_identity.keys import Key
from shoal_identity.trust import Trust
from shoal_model import subjects
from shoal_model.messages import (
    AnnounceRebootReply,
    AnnounceRebootRequest,
    NodeExec,
    NodeExecReply,
)
from shoal_model.subjects import Service


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    with loggers.restored():
        yield


class Unsecured(Identity):
    """A key, on a bus without TLS."""

    tls = None  # type: ignore[assignment]


def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\ncase $1 in list-jobs) echo '{jobs}';; *) echo running;; esac\n")
    program.chmod(0o755)
    monkeypatch.setattr(processes, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@asynccontextmanager
async def agent(run: Path, nats: NatsServer, seen: list[str]) -> AsyncIterator[asyncio.Task[None]]:
    """The resident agent in this process, listening; ended by SIGTERM, as by systemd."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear(line: str) -> None:
        seen.append(line)
        if "serves the head" in line:
            loop.call_soon_threadsafe(ready.set)

    state = BootState("n001", "b1", [nats.url], "127.0.0.1", "127.0.0.1", [], "0" * 64, "25%", "/log")
    handover.save(state, run)
    task = asyncio.create_task(resident.serve(Settings(run=run), Journal("execd", [hear])))
    async with asyncio.timeout(20):
        await ready.wait()
        yield task
        os.kill(os.getpid(), signal.SIGTERM)
        await task
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


@pytest.mark.parametrize(
    ("jobs", "announced"),
    [("640 reboot.target start waiting", 1), ("512 shoal-execd.service restart running", 0)],
)
async def test_a_reboot_is_announced_before_the_agent_goes_and_its_own_restart_is_not(
    bus: NatsBus, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, announced: int
) -> None:
    systemd(tmp_path, monkeypatch, jobs)
    key = Key.new()
    monkeypatch.setattr(handover, "load_identity", lambda *_: Unsecured(key, Trust("")))
    heard: list[tuple[str, AnnounceRebootRequest]] = []

    async def expect(subject: str, request: AnnounceRebootRequest) -> AnnounceRebootReply:
        heard.append((subject, request))
        return AnnounceRebootReply(until=datetime(2026, 11, 20, tzinfo=UTC))

    every = subjects.rpc_of_every_node(Service.AUTH, "announce-reboot")
    await bus.serve("auth", "0.1.0", [Endpoint(every, AnnounceRebootRequest, expect)])
    seen: list[str] = []
    async with agent(tmp_path / "run", nats_server, seen):
        pass
    assert [(subject, request.boot, request.key) for subject, request in heard] == [
        ("rpc.auth.v1.announce-reboot.n001", "b1", key.public)
    ] * announced
    assert ("this node boots again" in "".join(seen)) is bool(announced)


async def test_a_command_is_carried_out_once_while_two_connections_of_a_node_listen(
    bus: NatsBus, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do for a moment when a link is renewed."""
    systemd(tmp_path, monkeypatch, "")
    others: list[str] = []
    subject = subjects.node_topic("n001", "exec")

    async def other(_: str, command: dict[str, Any]) -> dict[str, Any]:
        others.append(command["id"])
        return {"exit_code": 0, "stdout": b"", "stderr": b"", "error": None}

    second = await connect([nats_server.url], name="n001 execd", timeout=10)
    await second.subscribe(subject, other, queue="n001")
    count = tmp_path / "count"
    try:
        async with agent(tmp_path / "run", nats_server, []):
            for number in range(20):
                command = ["sh", "-c", f"echo c{number} >> {count}"]
                order = NodeExec(id=f"c{number}", command=command, timeout=10)
                assert (await bus.call(subject, order, NodeExecReply)).exit_code == 0
    finally:
        await second.close()
    own = count.read_text().split() if count.exists() else []
    assert sorted([*own, *others]) == sorted(f"c{number}" for number in range(20))
