"""What shoal-dhcp puts on the wire, frame by frame, and what it outlives: garbage, changes, a lost bus."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lab.dhcp_cluster import cluster
from lab.dhcp_packets import captured, packed, request
from lab.dhcp_service import (
    SHOAL_DHCP,
    Station,
    counted,
    dhcp_service,
    eventually,
    exchange,
    machine,
    register,
)
from lab.nats_server import NatsServer
from lab.net import Lan
from lab.space import Running, run
from shoal_bus.nats import NatsBus
from shoal_dhcp4 import ANY, LIMITED_BROADCAST, Datagram, MessageType, Option, Packet, decode, encode, unwrap, wrap
from shoal_model.messages import BootEvent

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MAC = "52:54:00:77:00:11"
PXE = {Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003000", Option.CLIENT_ARCHITECTURE: b"\0\x07"}


@pytest.fixture
async def service(lan: Lan, nats_server: NatsServer, bus: NatsBus, tmp_path: Path) -> AsyncIterator[Running]:
    await register(bus, cluster())
    async with dhcp_service(lan, nats_server, tmp_path) as running:
        yield running


@pytest.fixture
def station(lan: Lan) -> Iterator[Station]:
    station = Station(lan, MAC)
    yield station
    station.close()


def sent(data: bytes) -> bytes:
    """The datagram in which a client without an address sends a packet."""
    return wrap(Datagram(ANY, 68, LIMITED_BROADCAST, 67, data))


async def reply_to(station: Station, packet: Packet) -> tuple[bytes, Datagram, Packet]:
    """The reply's frame destination, its datagram, the packet in it."""
    station.send(sent(encode(packet)))
    to, raw = await station.hear()
    if to == b"\xff" * 6:  # sent by the kernel, which leaves the checksum to the hardware: here there is none
        raw = raw[:26] + b"\0\0" + raw[28:]
    datagram = unwrap(raw)
    return to, datagram, decode(datagram.payload)


async def test_a_client_without_an_address_is_written_to_directly(service: Running, station: Station) -> None:
    to, datagram, offer = await reply_to(station, request(MessageType.DISCOVER))
    assert to.hex(":") == MAC
    assert (str(datagram.source), datagram.source_port) == ("10.77.0.1", 67)
    assert (str(datagram.destination), datagram.destination_port) == ("10.77.0.11", 68)
    assert (offer.message_type, str(offer.yiaddr)) == (MessageType.OFFER, "10.77.0.11")


async def test_a_client_that_asks_for_a_broadcast_gets_one(service: Running, station: Station) -> None:
    to, datagram, offer = await reply_to(station, request(MessageType.DISCOVER, flags=0x8000))
    assert to == b"\xff" * 6
    assert (datagram.destination, datagram.destination_port) == (LIMITED_BROADCAST, 68)
    assert str(datagram.source) == "10.77.0.1"
    assert offer.message_type is MessageType.OFFER


async def test_a_relay_is_answered_at_its_address(lan: Lan, service: Running) -> None:
    relayed = {Option.RELAY_AGENT_INFORMATION: bytes.fromhex("0104aabbccdd")}
    far = bytes.fromhex("525400880011")
    discover = request(MessageType.DISCOVER, relayed, chaddr=far, giaddr="10.88.0.254", hops=1)
    wrong = request(
        MessageType.REQUEST,
        {**relayed, Option.REQUESTED_ADDRESS: packed("10.88.0.9")},
        chaddr=far,
        giaddr="10.88.0.254",
    )
    run(lan.space, "ip", "route", "add", "10.88.0.0/24", "via", "10.77.0.5")
    with machine(lan, "52:54:00:00:00:05") as relay:
        run(relay, "ip", "address", "add", "10.77.0.5/24", "dev", "eth0")
        run(relay, "ip", "address", "add", "10.88.0.254/24", "dev", "lo")
        answer, source, port = await exchange(relay, "10.88.0.254", encode(discover), port=67)
        refusal, _, _ = await exchange(relay, "10.88.0.254", encode(wrong), port=67)
    offer, nak = decode(answer), decode(refusal)
    assert (source, port) == ("10.77.0.1", 67)
    assert (offer.message_type, str(offer.yiaddr), str(offer.giaddr)) == (
        MessageType.OFFER,
        "10.88.0.11",
        "10.88.0.254",
    )
    assert offer.options[Option.RELAY_AGENT_INFORMATION] == bytes.fromhex("0104aabbccdd")
    assert (nak.message_type, nak.broadcast) == (MessageType.NAK, True)


async def test_a_change_of_the_records_is_live_within_a_second(
    lan: Lan, service: Running, bus: NatsBus, station: Station
) -> None:
    assert str((await reply_to(station, request(MessageType.DISCOVER)))[2].yiaddr) == "10.77.0.11"
    await register(bus, cluster(address="10.77.0.77", name="renamed"))

    async def changed() -> bool:
        offer = (await reply_to(station, request(MessageType.DISCOVER)))[2]
        return (str(offer.yiaddr), offer.options[Option.HOST_NAME]) == ("10.77.0.77", b"renamed")

    await eventually(changed, timeout=1.0)


async def test_garbage_is_outlived(service: Running, station: Station) -> None:
    chance = random.Random(7)
    originals = [captured(f"{name}-discover") for name in ("ipxe-bios", "ovmf-pxe", "ovmf-http", "udhcpc", "dhclient")]
    for turn in range(3000):
        data = bytearray(chance.choice(originals) if turn % 3 else chance.randbytes(chance.randrange(1, 1400)))
        for _ in range(chance.randrange(20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        station.send(sent(bytes(data)))
        if turn % 100 == 0:
            await asyncio.sleep(0.01)

    async def quiet() -> bool:
        before = await counted(r"shoal_dhcp_(?:dropped|replies)_total\{.*\}")
        await asyncio.sleep(0.2)
        return before > 1000 and before == await counted(r"shoal_dhcp_(?:dropped|replies)_total\{.*\}")

    await eventually(quiet)
    assert await counted(r'shoal_dhcp_dropped_total\{reason="bug"\}') == 0
    assert await counted(r'shoal_dhcp_dropped_total\{reason="malformed"\}') > 300
    assert service.running
    station.send(sent(encode(request(MessageType.DISCOVER, xid=0xABCD1234))))
    while bytes.fromhex("abcd1234") not in (await station.hear())[1]:
        pass


async def test_without_the_bus_it_answers_refuses_nobody_and_keeps_its_events(
    service: Running, nats_server: NatsServer, bus: NatsBus, station: Station
) -> None:
    nats_server.stop()
    offer = (await reply_to(station, request(MessageType.DISCOVER, PXE)))[2]
    assert (offer.message_type, offer.file) == (MessageType.OFFER, b"snponly.efi")
    station.send(sent(encode(request(MessageType.REQUEST, {Option.REQUESTED_ADDRESS: packed("10.77.0.99")}))))
    with pytest.raises(TimeoutError):
        await station.hear(timeout=1.0)
    assert await counted(r'shoal_dhcp_dropped_total\{reason="maybe-outdated"\}') == 1
    nats_server.start()
    async with asyncio.timeout(30), bus.events("evt.boot.>", BootEvent, since=0) as events:
        _, subject, event = await anext(events)
    assert (subject, event.node) == ("evt.boot.n001.dhcp.offer", "n001")


async def test_sigterm_ends_it_at_once(service: Running) -> None:
    service.signal(signal.SIGTERM)
    assert await asyncio.to_thread(service.process.wait, 10) == 0


async def test_a_replaced_interface_ends_it_so_that_it_is_started_on_the_new_one(
    lan: Lan, service: Running, tmp_path: Path
) -> None:
    run(lan.space, "ip", "link", "delete", "boot0")
    Lan(lan.space, "boot0", "10.77.0.1/24")
    assert await asyncio.to_thread(service.process.wait, 20) == 1
    assert "interface boot0 was replaced" in (tmp_path / "dhcp.log").read_text()


async def test_a_second_server_on_the_interface_is_named(
    lan: Lan, nats_server: NatsServer, bus: NatsBus, tmp_path: Path
) -> None:
    with (tmp_path / "said").open("wb") as log:
        env = {"SHOAL_NATS": nats_server.url, "SHOAL_INTERFACE": "eth9"}
        running = Running(lan.space, [SHOAL_DHCP], env=env, stderr=log)
        assert await asyncio.to_thread(running.process.wait, 30) == 1
    assert "there is no network interface 'eth9': set SHOAL_INTERFACE" in (tmp_path / "said").read_text()


async def test_without_an_interface_it_says_which_setting_is_missing(lan: Lan, tmp_path: Path) -> None:
    with (tmp_path / "said").open("wb") as log:
        running = Running(lan.space, [SHOAL_DHCP], env={"SHOAL_INTERFACE": ""}, stderr=log)
        assert await asyncio.to_thread(running.process.wait, 30) == 2
    assert "SHOAL_INTERFACE (--interface): is required" in (tmp_path / "said").read_text()
