"""The bus in both its forms: what holds for one must hold for the other."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from lab.nats_proxy import NatsProxy
from lab.nats_server import NatsServer
from shoal_bus.api import Bus
from shoal_bus.fakes import MemoryBus
from shoal_bus.nats import NatsBus

Clients = Callable[[], Awaitable[Bus]]


@pytest.fixture(params=["memory", "nats"])
def bus_kind(request: pytest.FixtureRequest) -> MemoryBus | NatsServer:
    """What clients connect to."""
    if request.param == "memory":
        return MemoryBus()
    server = request.getfixturevalue("nats_server")
    assert isinstance(server, NatsServer)
    return server


@pytest.fixture
async def clients(bus_kind: MemoryBus | NatsServer) -> AsyncIterator[Clients]:
    """Makes participants of one bus, prepared."""
    made: list[Bus] = []

    async def client() -> Bus:
        if isinstance(bus_kind, MemoryBus):
            made.append(bus_kind.client())
        else:
            made.append(await NatsBus.connect([bus_kind.url], name="test", timeout=10))
        await made[-1].prepare()
        return made[-1]

    yield client
    for bus in made:
        await bus.close()


@pytest.fixture
async def proxy(nats_server: NatsServer) -> AsyncIterator[NatsProxy]:
    async with NatsProxy(nats_server.port) as proxy:
        yield proxy


@pytest.fixture
async def behind(proxy: NatsProxy) -> AsyncIterator[NatsBus]:
    """A bus on the other side of the proxy."""
    bus = await NatsBus.connect([proxy.url], name="behind", timeout=10)
    await bus.prepare()
    yield bus
    await bus.close()
