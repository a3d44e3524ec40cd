"""What tests of several parts share: a real nats-server, and a bus connected to it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.nats_server import NatsServer
from shoal_bus.nats import NatsBus


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[NatsBus]:
    """Connected, with Shoal's streams and buckets."""
    bus = await NatsBus.connect([nats_server.url], name="test", timeout=10)
    await bus.prepare()
    yield bus
    await bus.close()
