"""A segment in a network namespace, with a bus server in it: what services on the wire are tested on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.inside import inside
from lab.nats_server import NatsServer
from lab.net import Lan
from lab.space import Namespace, run
from lab.tftp_head import HEAD, OTHER_HEAD


@pytest.fixture
def lan() -> Iterator[Lan]:
    """The test itself is in the network of the head, which has two addresses there."""
    with Namespace() as space, inside(space):
        lan = Lan(space, "boot0", f"{HEAD}/24")
        run(space, "ip", "address", "add", f"{OTHER_HEAD}/24", "dev", "boot0")
        yield lan


@pytest.fixture
def nats_server(lan: Lan, tmp_path: Path) -> Iterator[NatsServer]:
    """The usual one, but in the namespace."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.kill()
