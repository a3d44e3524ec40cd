"""`shoal-auth` as a process: what it is told, what it needs, and what happens when one of two is killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from lab.auth_lab import DOCUMENT, AuthLab, Machine, auth_lab, until
from shoal_bus import server_config
from shoal_bus.errors import BusError, Unavailable
from shoal_bus.link import Link
from shoal_model import messages as m

_PROGRAM = Path(sys.executable).parent / "shoal-auth"
NODES = {f"n{number:03}": f"127.0.1.{number}" for number in range(1, 41)}


class Processes:
    """Makes processes of auth, and ends them."""

    def __init__(self, lab: AuthLab, folder: Path, stack: AsyncExitStack) -> None:
        self._lab, self._folder, self._stack = lab, folder, stack
        server = lab.server
        seeds = {
            "key": server.keys["auth"],
            "callout": server.callout,
            "system": server.system,
            "issuer": server.issuer,
        }
        for name, key in seeds.items():
            key.write(folder / name)
        assert server.trust is not None
        (folder / "ca.crt").write_bytes(server.trust.dump())

    async def start(self, **changed: str) -> asyncio.subprocess.Process:
        told = {
            "SHOAL_NATS": self._lab.server.url,
            "SHOAL_METRICS": "127.0.0.1:0",
            "SHOAL_KEY": str(self._folder / "key"),
            "SHOAL_CA": str(self._folder / "ca.crt"),
            "SHOAL_CALLOUT_KEY": str(self._folder / "callout"),
            "SHOAL_SYSTEM_KEY": str(self._folder / "system"),
            "SHOAL_ISSUER_KEY": str(self._folder / "issuer"),
            "SHOAL_BOOT_KEYS": self._lab.boot_key.public,
            **changed,
        }
        process = await asyncio.create_subprocess_exec(
            _PROGRAM, env={**os.environ, **told}, stderr=asyncio.subprocess.PIPE
        )
        self._stack.push_async_callback(self._end, process)
        return process

    async def ready(self) -> asyncio.subprocess.Process:
        """One that answers."""
        process = await self.start()
        assert process.stderr is not None
        async with asyncio.timeout(30):
            async for line in process.stderr:
                if b"service.ready" in line:
                    return process
        raise AssertionError("auth ended before it was ready")

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AuthLab]:
    monkeypatch.setattr(server_config, "TIMEOUT", 4)
    async with auth_lab(tmp_path, tls=True) as lab:
        yield lab


@pytest.fixture
async def processes(lab: AuthLab, tmp_path: Path) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        yield Processes(lab, tmp_path, stack)


async def test_one_of_two_is_killed_and_everybody_comes_in(lab: AuthLab, processes: Processes) -> None:
    macs = {node: f"52:54:01:00:00:{number:02x}" for number, node in enumerate(NODES, 1)}
    nodes = {node: {"mac": macs[node], "address": address} for node, address in NODES.items()}
    await lab.apply({**DOCUMENT, "nodes": nodes})
    victim = await processes.ready()
    other = await processes.ready()
    await lab.arm(*NODES)

    async def boot(node: str) -> Link:
        machine = Machine(node, address=NODES[node])
        token = lab.token(machine, mac=macs[node])
        async with asyncio.timeout(30):
            while True:
                try:
                    return await lab.knock(machine, token)
                except Unavailable:
                    continue

    booting = [asyncio.create_task(boot(node)) for node in NODES]
    await asyncio.wait(booting, return_when=asyncio.FIRST_COMPLETED)
    victim.send_signal(signal.SIGKILL)
    for link in await asyncio.gather(*booting):
        await link.flush()
    assert len(await lab.bindings()) == len(NODES)
    other.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        assert await other.wait() == 0


async def test_it_proves_nodes_again_after_it_was_killed(lab: AuthLab, processes: Processes) -> None:
    machine = Machine("n001")
    first = await processes.ready()
    await lab.arm("n001")
    await lab.boot(machine)
    first.kill()
    await first.wait()
    await processes.ready()
    await lab.knock(machine)
    await lab.refused(Machine("n001"), lab.token(machine))

    async def answered() -> bool:
        try:
            return bool((await lab.ask("bindings", m.BindingsRequest(), m.BindingsReply)).bindings)
        except BusError:
            return False

    assert await until(answered)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"SHOAL_CALLOUT_KEY": ""}, "auth needs SHOAL_CALLOUT_KEY"),
        ({"SHOAL_ISSUER_KEY": "{folder}/callout"}, "its public key should begin with A"),
        ({"SHOAL_SYSTEM_KEY": "{folder}/issuer"}, "its public key should begin with U"),
        ({"SHOAL_ISSUER_KEY": "/nowhere"}, "cannot read the key /nowhere"),
    ],
)
async def test_it_says_what_it_needs_and_tells_no_secret(
    processes: Processes, tmp_path: Path, changed: dict[str, str], told: str
) -> None:
    changed = {name: value.format(folder=tmp_path) for name, value in changed.items()}
    process = await processes.start(**changed)
    async with asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert told in said.decode()
    for value in changed.values():
        assert not value.startswith("S") or value not in said.decode()
