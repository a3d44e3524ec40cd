"""A boot storm: many agents at once, each a real connection with a key born for it and a boot token of its own.

python -m lab.storm < order.json > result.json      one process of agents; `lab.storming` runs several
"""

import asyncio
import json
import random
import resource
import ssl
import sys
import time
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shoal_bus.connection import Connection, Credentials, connect
from shoal_bus.errors import BusError
from shoal_identity import tokens, trust
from shoal_identity.keys import Key
from shoal_identity.tokens import BootToken
from shoal_model import subjects
from shoal_model.subjects import Service


@dataclass(frozen=True)
class Order:
    """Agents `first` to `first + count - 1` of a cluster of `node(n)`, arriving over `spread` seconds.

    `ca` and `boot_key` are files, empty for a bus without TLS and without authentication.
    """

    url: str
    first: int
    count: int
    spread: float
    within: float
    ca: str = ""
    boot_key: str = ""


@dataclass(frozen=True)
class Result:
    """Seconds from each agent's arrival to its answer, the reasons of those that failed, and what the process took."""

    seconds: list[float]
    failures: list[str]
    phantoms: int
    cpu: float
    began: float
    ended: float


def node(number: int) -> str:
    """The id of a node of the storm."""
    return f"s{number:05d}"


def mac(number: int) -> str:
    """Its MAC."""
    return f"52:54:01:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def boot_id(number: int) -> str:
    """The boot it is in."""
    return f"{number:016x}"


def address(number: int) -> str:
    """Its address: any in 127.0.0.0/8 may be connected from."""
    return f"127.64.{number >> 8}.{number & 255}"


_from: ContextVar[str] = ContextVar("from")


class _Loop(asyncio.SelectorEventLoop):
    """Connects from the address of the agent that asks."""

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as asyncio's
        local = _from.get(None)
        return await super().create_connection(*arguments, local_addr=(local, 0) if local else None, **options)


async def storm(order: Order, context: ssl.SSLContext | None) -> Result:
    """Let them come, and wait for all."""
    credentials = [_credentials(order, number, context) for number in range(order.first, order.first + order.count)]
    seconds: list[float] = []
    failures: list[str] = []
    connections: list[Connection] = []
    began, before = time.time(), resource.getrusage(resource.RUSAGE_SELF)

    async def agent(number: int, own: Credentials) -> None:
        _from.set(address(number))
        await asyncio.sleep(random.uniform(0, order.spread))
        arrived = time.monotonic()
        try:
            connections.append(await _served(order, number, own, arrived))
            seconds.append(time.monotonic() - arrived)
        except (BusError, TimeoutError) as error:
            failures.append(f"{node(number)}: {error}")

    async with asyncio.TaskGroup() as group:
        for number, own in enumerate(credentials, order.first):
            group.create_task(agent(number, own))
    ended, after = time.time(), resource.getrusage(resource.RUSAGE_SELF)
    alive = sum(connection.connected for connection in connections)
    phantoms = sum(connection.counts["phantom_connections"] for connection in connections)
    if alive != len(connections):
        failures.append(f"{len(connections) - alive} connections were lost again")
    await asyncio.gather(*(connection.close() for connection in connections))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Result(seconds, failures, phantoms, cpu, began, ended)


def _credentials(order: Order, number: int, context: ssl.SSLContext | None) -> Credentials:
    inbox = subjects.inbox("node", node(number))
    if not order.boot_key:
        return Credentials(inbox_prefix=inbox)
    token = BootToken(node(number), mac(number), address(number), boot_id(number), int(time.time()) + tokens.LIFETIME)
    minted = tokens.mint(token, Key.read(Path(order.boot_key)))
    return Credentials(key=Key.new(), token=minted, tls=context, inbox_prefix=inbox)


async def _served(order: Order, number: int, own: Credentials, arrived: float) -> Connection:
    """Connected, listening on its own subject, and answered: what stage 1 needs to go on."""
    name = node(number)
    connection = await connect([order.url], name=f"{name} stage1", credentials=own, timeout=order.within)
    try:
        await connection.subscribe(subjects.node_topic(name, "options"), _ignore)
        left = order.within - (time.monotonic() - arrived)
        subject = subjects.rpc(Service.EXECD_CONFIG, "announce", name)
        await connection.request(subject, {"boot": boot_id(number)}, timeout=max(left, 0.1))
    except BaseException:
        await connection.close()
        raise
    return connection


async def _ignore(_: str, __: dict[str, object]) -> None:
    return None


if __name__ == "__main__":
    given = Order(**json.load(sys.stdin))
    tls = trust.parse(Path(given.ca).read_bytes()).client_context() if given.ca else None
    with asyncio.Runner(loop_factory=_Loop) as runner:
        json.dump(asdict(runner.run(storm(given, tls))), sys.stdout)
