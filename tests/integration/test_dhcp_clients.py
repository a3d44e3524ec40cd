"""Real clients and the real shoal-dhcp, with a real nats-server, on a segment in a network namespace."""

import asyncio
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.dhcp_cluster import cluster
from lab.dhcp_service import counted, dhcp_service, eventually, machine, register, said
from lab.nats_server import NatsServer
from lab.net import Lan
from lab.node import Machine, Nic, VirtualNode
from lab.space import Namespace, Running, run
from shoal_bus.nats import NatsBus
from shoal_model.messages import BootEvent, MachineSeen

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

REGISTERED, STRANGER = "52:54:00:77:00:11", "52:54:00:66:66:66"


@pytest.fixture
async def service(lan: Lan, nats_server: NatsServer, bus: NatsBus, tmp_path: Path) -> AsyncIterator[Running]:
    await register(bus, cluster())
    async with dhcp_service(lan, nats_server, tmp_path) as running:
        yield running


def told_script(folder: Path, *, configure: bool = False) -> str:
    """A script for udhcpc that keeps what it is told in `<folder>/lease`."""
    script = folder / "told"
    take = 'ip address replace "$ip/$mask" dev "$interface"' if configure else ":"
    script.write_text(f'#!/bin/sh\ncase "$1" in bound|renew) env >{folder}/lease; {take};; esac\n')
    script.chmod(0o755)
    return str(script)


def lease_in(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / "lease").read_text().splitlines())


async def test_udhcpc_gets_its_address(lan: Lan, service: Running, tmp_path: Path) -> None:
    client = lan.client("c0", REGISTERED)
    script = told_script(tmp_path)
    text = await said(lan, "busybox", "udhcpc", "-i", client, "-n", "-q", "-t", "3", "-T", "2", "-s", script)
    assert re.search(r"lease of 10\.77\.0\.11 obtained from 10\.77\.0\.1\b", text), text
    lease = lease_in(tmp_path)
    wanted = {
        "ip": "10.77.0.11",
        "mask": "24",
        "router": "10.77.0.254",
        "dns": "10.77.0.1 10.77.0.2",
        "hostname": "n001",
        "domain": "cluster.test",
        "lease": "43200",
        "siaddr": "10.77.0.1",
        "serverid": "10.77.0.1",
        "broadcast": "10.77.0.255",
    }
    assert {key: lease.get(key) for key in wanted} == wanted
    assert "boot_file" not in lease


async def test_udhcpc_renews_by_unicast(lan: Lan, service: Running, tmp_path: Path) -> None:
    with machine(lan, REGISTERED) as client, (tmp_path / "udhcpc.log").open("wb") as log:
        argv = [
            "busybox",
            "udhcpc",
            "-i",
            "eth0",
            "-f",
            "-t",
            "3",
            "-T",
            "2",
            "-s",
            told_script(tmp_path, configure=True),
        ]
        udhcpc = Running(client, argv, stdout=log, stderr=subprocess.STDOUT)

        async def obtained(times: int) -> bool:
            return (tmp_path / "udhcpc.log").read_text().count("lease of 10.77.0.11 obtained") == times

        await eventually(lambda: obtained(1))
        udhcpc.signal(signal.SIGUSR1)
        await eventually(lambda: obtained(2))
        udhcpc.stop()
    assert "sending renew to server 10.77.0.1" in (tmp_path / "udhcpc.log").read_text()


async def test_dhclient_gets_and_releases_its_address(lan: Lan, service: Running, tmp_path: Path) -> None:
    client = lan.client("c0", REGISTERED)
    leases, config = tmp_path / "leases", tmp_path / "dhclient.conf"
    config.write_text("timeout 10;\n")
    files = ("-cf", str(config), "-lf", str(leases), "-pf", str(tmp_path / "dhclient.pid"), "-sf", "/bin/true")
    try:
        assert "bound to 10.77.0.11" in await said(lan, "dhclient", "-1", "-v", *files, client)
        lease = leases.read_text()
        for line in (
            "fixed-address 10.77.0.11;",
            "option subnet-mask 255.255.255.0;",
            "option routers 10.77.0.254;",
            "option dhcp-server-identifier 10.77.0.1;",
            "option dhcp-lease-time 43200;",
            'option host-name "n001";',
            'option domain-name "cluster.test";',
        ):
            assert line in lease
    finally:
        text = await said(lan, "dhclient", "-r", "-v", *files, client)
    assert "DHCPRELEASE of 10.77.0.11" in text


async def test_dhclient_with_a_lease_from_elsewhere_is_refused_and_asks_anew(
    lan: Lan, service: Running, tmp_path: Path
) -> None:
    client = lan.client("c0", REGISTERED)
    leases, config = tmp_path / "leases", tmp_path / "dhclient.conf"
    config.write_text("timeout 10;\n")
    leases.write_text(
        'lease {\n  interface "c0";\n  fixed-address 10.77.0.200;\n  option subnet-mask 255.255.255.0;\n'
        "  option dhcp-server-identifier 10.77.0.1;\n  renew never;\n  rebind never;\n  expire never;\n}\n"
    )
    files = ("-cf", str(config), "-lf", str(leases), "-pf", str(tmp_path / "dhclient.pid"), "-sf", "/bin/true")
    try:
        text = await said(lan, "dhclient", "-1", "-v", *files, client)
    finally:
        await said(lan, "dhclient", "-x", *files, client)
    assert text.index("DHCPREQUEST for 10.77.0.200") < text.index("DHCPNAK from 10.77.0.1")
    assert "bound to 10.77.0.11" in text


async def test_an_unknown_client_gets_nothing_and_is_told_of(lan: Lan, service: Running, bus: NatsBus) -> None:
    heard: list[tuple[str, MachineSeen]] = []

    async def hear(subject: str, seen: MachineSeen) -> None:
        heard.append((subject, seen))

    subscription = await bus.subscribe("evt.machine.*.seen", MachineSeen, hear)
    client = lan.client("c0", STRANGER)
    text = await said(lan, "busybox", "udhcpc", "-i", client, "-n", "-q", "-t", "4", "-T", "1", "-s", "/bin/true")
    assert "no lease, failing" in text
    await subscription.stop()
    # Four were sent; the first may be gone before the link is up. One notice stands for all of them.
    assert await counted(r'shoal_dhcp_dropped_total\{reason="unknown-mac"\}') in {3, 4}
    assert await counted(r"shoal_dhcp_replies_total\{.*\}") == 0
    ((subject, seen),) = heard
    assert (subject, seen.mac) == ("evt.machine.525400666666.seen", STRANGER)
    assert (seen.vendor_class or "").startswith("udhcp ")


async def boot_events(bus: NatsBus, number: int) -> list[BootEvent]:
    """The first events about n001 in the stream."""
    found: list[BootEvent] = []
    async with asyncio.timeout(15), bus.events("evt.boot.n001.>", BootEvent, since=0) as events:
        async for _, _, event in events:
            found.append(event)
            if len(found) == number:
                break
    return found


@pytest.mark.boot
@pytest.mark.parametrize(
    ("loader", "file", "asks"),
    [
        (None, "http://10.77.0.1:8080/boot.ipxe", "http://10.77.0.1:8080/boot.ipxe..."),
        ("pxelinux", "pxelinux.0", "tftp://10.77.0.1/pxelinux.0..."),
    ],
)
async def test_ipxe_gets_its_address_and_asks_for_its_boot_file(
    lan: Lan, nats_server: NatsServer, bus: NatsBus, tmp_path: Path, loader: str | None, file: str, asks: str
) -> None:
    await register(bus, cluster(boot={"loader": loader}))
    nic = Nic(lan.tap("n001"), REGISTERED)
    async with dhcp_service(lan, nats_server, tmp_path):
        with VirtualNode(lan.space, Machine("n001", (nic,), memory=128), tmp_path) as node:
            await asyncio.to_thread(node.wait_for, asks, 60)
        console = node.text()
        assert "net0: 10.77.0.11/255.255.255.0 gw 10.77.0.254" in console
        assert "Next server: 10.77.0.1" in console
        assert f"Filename: {file}" in console
        offered, given = await boot_events(bus, 2)
        assert await counted("shoal_dhcp_advertisements_total") == 1  # else it waits 16 s for an IPv6 router
    assert (offered.stage, given.stage) == ("dhcp.offer", "dhcp.ack")
    assert offered.details == given.details
    vendor_class = "PXEClient:Arch:00000:UNDI:002001"
    assert given.details == {"address": "10.77.0.11", "architecture": 0, "vendor_class": vendor_class, "loader": file}


async def test_a_running_system_learns_nothing_from_the_advertisement(lan: Lan, service: Running) -> None:
    def ipv6_settings(client: Namespace) -> str:
        return run(client, "sh", "-c", "cd /proc/sys/net/ipv6; grep -s . conf/eth0/* neigh/eth0/*; true")

    with machine(lan, REGISTERED) as client:  # its kernel solicits as soon as its own address is proven
        run(client, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra")
        before = ipv6_settings(client)

        async def advertised() -> bool:
            return await counted("shoal_dhcp_advertisements_total") >= 1

        await eventually(advertised, timeout=20)
        await asyncio.sleep(0.3)  # for the kernel to take it
        assert "default" not in run(client, "ip", "-6", "route")
        assert run(client, "ip", "-6", "address", "show", "scope", "global") == ""
        assert ipv6_settings(client) == before
