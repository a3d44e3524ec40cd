"""What tests of several parts share: a real nats-server, a bus connected to it, a head that boots virtual nodes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from lab.boots import BootLab
from lab.nats_server import NatsServer
from shoal_bus.nats import NatsBus

# How long an example takes is a matter of the machine, which others share.
hypothesis.settings.register_profile("shoal", deadline=None)
hypothesis.settings.load_profile("shoal")


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


@pytest.fixture(scope="session")
def boots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootLab]:
    """One head with a built image for all boots of a run."""
    with BootLab(tmp_path_factory.mktemp("boots")) as lab:
        yield lab
