"""Everything a boot storm meets: a bus with TLS and the callout, the registry, two replicas of auth, and the agents.

Whoever answers the agents stands in for execd-config: what is measured is how they come in, not what they get.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab import storm
from lab.nats_server import NatsServer
from lab.secure import SecureServer
from lab.storm import Order, Result
from shoal_bus.api import Endpoint
from shoal_bus.errors import BusError
from shoal_bus.nats import NatsBus
from shoal_identity.keys import Key
from shoal_model.messages import (
    AnnounceReply,
    AnnounceRequest,
    ApplyRequest,
    ArmedReply,
    ArmRequest,
    ChangeReply,
    Empty,
)
from shoal_model.subjects import Service, rpc, rpc_of_every_node

_SCRIPTS = Path(sys.executable).parent
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = 120.0
_GENERATION = AnnounceReply(generation="0" * 64)
_FILES = "max_connections: 65536"


@dataclass(frozen=True)
class Outcome:
    """A storm: `wall` seconds from the first arrival to the last answer; `cpu` seconds by who used them."""

    agents: int
    wall: float
    seconds: Sequence[float]
    failures: Sequence[str]
    phantoms: int
    cpu: Mapping[str, float] = field(default_factory=dict)


class Storming:
    """Made by `guarded` or `open_bus`."""

    def __init__(self, folder: Path, server: NatsServer) -> None:
        self.folder, self.server = folder, server
        self.services: dict[str, asyncio.subprocess.Process] = {}
        self.ca = self.boot_key = ""

    async def run(self, agents: int, *, spread: float, within: float, processes: int = 2, first: int = 0) -> Outcome:
        """Let so many agents come, from so many processes, and wait for all."""
        before = self._cpu()
        shares = [agents // processes + (index < agents % processes) for index in range(processes)]
        starts = [first + sum(shares[:index]) for index in range(processes)]
        orders = [
            Order(self.server.url, start, share, spread, within, self.ca, self.boot_key)
            for start, share in zip(starts, shares, strict=True)
        ]
        results = await asyncio.gather(*(_agents(order) for order in orders))
        used = {name: after - before[name] for name, after in self._cpu().items() if name in before}
        return Outcome(
            agents=agents,
            wall=max(result.ended for result in results) - min(result.began for result in results),
            seconds=[second for result in results for second in result.seconds],
            failures=[failure for result in results for failure in result.failures],
            phantoms=sum(result.phantoms for result in results),
            cpu={**used, "agents": sum(result.cpu for result in results)},
        )

    def _cpu(self) -> dict[str, float]:
        pids = {name: process.pid for name, process in self.services.items() if process.returncode is None}
        return {"nats-server": _cpu(self.server.pid), **{name: _cpu(pid) for name, pid in pids.items()}}


@asynccontextmanager
async def guarded(folder: Path, agents: int) -> AsyncIterator[Storming]:
    """A bus that lets in whom `auth` proves, with `agents` nodes whose boots are expected."""
    server = SecureServer(folder / "nats", tls=True, limits="")
    async with AsyncExitStack() as stack:
        server.start()
        stack.callback(server.kill)
        storming = Storming(folder, server)
        keys = _Keys(folder, server)
        storming.ca, storming.boot_key = str(keys.ca), str(keys.boot)
        storming.services["registry"] = await _service(stack, "registry", keys, 1)
        storming.services["auth"] = await _service(stack, "auth", keys, 2)
        storming.services["auth-2"] = await _service(stack, "auth", keys, 3)
        await _expect(server, agents)
        bus = await server.bus(Service.EXECD_CONFIG)
        stack.push_async_callback(bus.close)
        await _answer(bus)
        yield storming


@asynccontextmanager
async def open_bus(folder: Path) -> AsyncIterator[Storming]:
    """The same bus without TLS and without anybody to ask."""
    server = NatsServer(folder / "nats", config=_FILES)
    server.start()
    try:
        bus = await NatsBus.connect([server.url], name="answers", timeout=10)
        await _answer(bus)
        yield Storming(folder, server)
        await bus.close()
    finally:
        server.kill()


class _Keys:
    """The files that services are told of."""

    def __init__(self, folder: Path, server: SecureServer) -> None:
        assert server.trust is not None
        self.folder, self.url = folder, server.url
        self.ca, self.boot = folder / "ca.crt", folder / "boot.seed"
        self.ca.write_bytes(server.trust.dump())
        boot = Key.new()
        boot.write(self.boot)
        self.boot_public = boot.public
        named = {"callout": server.callout, "system": server.system, "issuer": server.issuer}
        for name, key in {**named, **server.keys}.items():
            key.write(self.seed(name))

    def seed(self, name: str) -> Path:
        return self.folder / f"{name}.seed"

    def environment(self, service: str, port: int) -> dict[str, str]:
        return {
            **os.environ,
            "SHOAL_NATS": self.url,
            "SHOAL_KEY": str(self.seed(service)),
            "SHOAL_CA": str(self.ca),
            "SHOAL_METRICS": f"127.0.0.1:{port}",
            "SHOAL_CALLOUT_KEY": str(self.seed("callout")),
            "SHOAL_SYSTEM_KEY": str(self.seed("system")),
            "SHOAL_ISSUER_KEY": str(self.seed("issuer")),
            "SHOAL_BOOT_KEYS": self.boot_public,
        }


async def _service(stack: AsyncExitStack, service: str, keys: _Keys, number: int) -> asyncio.subprocess.Process:
    log = stack.enter_context((keys.folder / f"{service}-{number}.log").open("wb"))
    port = 30_000 + os.getpid() % 10_000 + number
    process = await asyncio.create_subprocess_exec(
        _SCRIPTS / f"shoal-{service}", env=keys.environment(service, port), stdout=log, stderr=log
    )

    async def end() -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()

    stack.push_async_callback(end)
    return process


async def _expect(server: SecureServer, agents: int) -> None:
    """Records of all nodes, and their boots expected."""
    nodes = {
        storm.node(number): {"mac": storm.mac(number), "address": storm.address(number)} for number in range(agents)
    }
    network = {"cidr": "127.0.0.0/8", "head": "127.0.0.1", "boot": True}
    operator = await server.bus("operator")
    try:
        request = ApplyRequest(document={"networks": {"boot": network}, "nodes": nodes}, author="storm")
        await _until_answered(operator, rpc(Service.AUTH, "armed"))
        await operator.call(rpc(Service.REGISTRY, "apply"), request, ChangeReply, timeout=_PATIENCE)
        arm = ArmRequest(nodes=list(nodes), seconds=3600, author="storm")
        await operator.call(rpc(Service.AUTH, "arm"), arm, ArmedReply, timeout=_PATIENCE)
    finally:
        await operator.close()


async def _until_answered(bus: NatsBus, subject: str) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                await bus.call(subject, Empty(), ArmedReply)
                return
            except BusError:
                await asyncio.sleep(0.1)


async def _answer(bus: NatsBus) -> None:
    async def announce(_: str, __: AnnounceRequest) -> AnnounceReply:
        return _GENERATION

    subject = rpc_of_every_node(Service.EXECD_CONFIG, "announce")
    await bus.serve(Service.EXECD_CONFIG, "1.0.0", [Endpoint(subject, AnnounceRequest, announce)])


async def _agents(order: Order) -> Result:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lab.storm",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    said, _ = await process.communicate(json.dumps(asdict(order)).encode())
    if process.returncode != 0:
        raise RuntimeError(f"a process of agents ended with {process.returncode}")
    return Result(**json.loads(said))


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used: proc_pid_stat(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
