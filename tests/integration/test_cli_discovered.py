"""From a machine that nobody knows to a node with an address, by the operator's commands alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.head import Head
from lab.net import Lan
from lab.space import Namespace, run

pytestmark = pytest.mark.integration

CLUSTER = "networks: {boot: {cidr: 10.77.0.0/24, head: 10.77.0.1, boot: true}}\n"
MACS = ("52:54:00:77:01:01", "52:54:00:77:01:02")


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Namespace() as space:
        yield Lan(space, "br0", "10.77.0.1/24")


def ask(lan: Lan, client: str) -> str:
    """What a DHCP client says after a few tries; it configures nothing."""
    command = ("busybox", "udhcpc", "-f", "-n", "-q", "-t", "3", "-T", "1", "-i", client, "-s", "/bin/true")
    return run(lan.space, "sh", "-c", f"{' '.join(command)} 2>&1", check=False)


def test_unknown_machines_are_listed_registered_and_served(lan: Lan, tmp_path: Path) -> None:
    clients = [lan.client(f"c{number}", mac) for number, mac in enumerate(MACS)]
    with Head(lan.space, "br0", tmp_path / "state").start() as head:
        head.shoal("apply", "-f", "-", stdin=CLUSTER)
        for client in clients:
            assert "no lease" in ask(lan, client)
        machines = json.loads(head.shoal("discovered", "list", "-o", "json"))
        assert {machine["mac"] for machine in machines} == set(MACS)
        assert MACS[0] in head.shoal("discovered", "list")
        told = head.shoal("discovered", "register", "n[008-009]", "--address", "10.77.0.20", "--dry-run")
        assert "2 records added (dry run: nothing stored)" in told
        head.shoal("discovered", "register", "n[008-009]", "--address", "10.77.0.20")
        for client, address in zip(clients, ("10.77.0.20", "10.77.0.21"), strict=True):
            assert f"lease of {address} obtained" in ask(lan, client)
        assert json.loads(head.shoal("discovered", "list", "-o", "json")) == []
        assert head.try_shoal("discovered", "register", "n010", "--address", "10.77.0.30").returncode == 1
