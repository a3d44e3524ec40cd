"""From bytes to bytes: what is sent, told, counted, and what no bytes can do."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from lab.dhcp_cluster import HEAD, cluster, find_in
from lab.dhcp_packets import captured, packed, request
from shoal_dhcp.events import Notice
from shoal_dhcp.handlers import Handler, Outgoing
from shoal_dhcp4 import DEFAULT_LIMIT, Destination, MessageType, Option, Packet, decode, encode
from shoal_model.messages import BootEvent, MachineSeen, Status
from shoal_model.records import Cluster

START = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
PXE = {Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003000", Option.CLIENT_ARCHITECTURE: b"\0\x07"}
UNKNOWN = bytes.fromhex("525400ffffff")


class Lab:
    """A handler with a clock in hand, and what it told."""

    def __init__(self, records: Cluster | None = None, *, current: bool = True) -> None:
        self.told: list[Notice] = []
        find = find_in(records or cluster())
        self.handler = Handler(find, self, structlog.stdlib.get_logger(), current=lambda: current)

    def put(self, notice: Notice) -> None:
        self.told.append(notice)

    def send(self, packet: Packet | bytes, seconds: float = 0.0) -> Outgoing | None:
        data = packet if isinstance(packet, bytes) else encode(packet)
        return self.handler.handle(data, START + timedelta(seconds=seconds), seconds)


def count(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"shoal_dhcp_{metric}_total", labels) or 0.0


def test_a_discover_is_answered_to_the_clients_hardware_address() -> None:
    before = count("requests", type="discover"), count("replies", type="offer")
    outgoing = Lab().send(request(MessageType.DISCOVER))
    assert outgoing is not None
    assert outgoing.source == IPv4Address(HEAD)
    assert outgoing.destination == Destination(IPv4Address("10.77.0.11"), 68, bytes.fromhex("525400770011"))
    assert decode(outgoing.payload).message_type is MessageType.OFFER
    assert (count("requests", type="discover"), count("replies", type="offer")) == (before[0] + 1, before[1] + 1)


def test_no_answer_is_larger_than_its_client_or_an_ethernet_frame_takes() -> None:
    long = {"domain": ".".join(["d" * 60] * 4), "cidr": "10.77.0.0/24", "head": HEAD, "boot": True}
    records = cluster().model_dump(by_alias=True)
    lab = Lab(Cluster.model_validate({**records, "networks": {**records["networks"], "boot": long}}))
    for size, limit in ((None, DEFAULT_LIMIT), (1400, 1372), (65535, 1472)):
        options = {} if size is None else {Option.MAXIMUM_MESSAGE_SIZE: size.to_bytes(2, "big")}
        outgoing = lab.send(request(MessageType.DISCOVER, options))
        assert outgoing is not None
        assert len(outgoing.payload) <= limit
        assert decode(outgoing.payload).options[Option.HOST_NAME] == b"n001"


def test_a_boot_is_told_step_by_step_and_its_retransmissions_are_not() -> None:
    lab = Lab()
    ask = request(MessageType.REQUEST, {**PXE, Option.REQUESTED_ADDRESS: packed("10.77.0.11")})
    for packet, seconds in ((request(MessageType.DISCOVER, PXE), 0), (request(MessageType.DISCOVER, PXE), 4), (ask, 5)):
        assert lab.send(packet, seconds) is not None
    assert [notice.subject for notice in lab.told] == ["evt.boot.n001.dhcp.offer", "evt.boot.n001.dhcp.ack"]
    offer = lab.told[0].message
    assert offer == BootEvent(
        node="n001",
        stage="dhcp.offer",
        at=START,
        details={
            "address": "10.77.0.11",
            "architecture": 7,
            "vendor_class": "PXEClient:Arch:00007:UNDI:003000",
            "loader": "snponly.efi",
        },
    )
    assert lab.told[0].id == f"dhcp.offer-52:54:00:77:00:11-12345678-{int(START.timestamp()) // 11}"
    lab.send(replace(request(MessageType.DISCOVER, PXE), xid=7), 60.0)
    assert len(lab.told) == 3


def test_two_heads_give_one_event_the_same_id() -> None:
    one, other = Lab(), Lab()
    for lab in (one, other):
        lab.send(request(MessageType.DISCOVER, PXE))
    assert one.told[0].id == other.told[0].id


def test_the_next_boot_has_another_id_even_if_it_has_the_same_xid() -> None:
    lab = Lab()
    lab.send(request(MessageType.DISCOVER, PXE), 0.0)
    lab.send(request(MessageType.DISCOVER, PXE), 20.0)
    assert len({notice.id for notice in lab.told}) == 2


def test_firmware_and_the_loader_it_fetched_are_two_steps() -> None:
    lab = Lab()
    lab.send(request(MessageType.DISCOVER, PXE), 0.0)
    ipxe = replace(request(MessageType.DISCOVER, {**PXE, Option.USER_CLASS: b"iPXE"}), xid=2)
    lab.send(ipxe, 0.5)
    assert [notice.message.details["loader"] for notice in lab.told] == [  # type: ignore[attr-defined]
        "snponly.efi",
        "http://10.77.0.1:8080/boot.ipxe",
    ]


def test_operating_systems_and_inform_make_no_boot_events() -> None:
    lab = Lab()
    assert lab.send(request(MessageType.DISCOVER)) is not None
    assert lab.send(request(MessageType.INFORM, PXE, ciaddr="10.77.0.11")) is not None
    assert lab.told == []


def test_firmware_without_a_loader_gets_an_address_and_the_event_says_so() -> None:
    lab = Lab()
    assert lab.send(request(MessageType.DISCOVER, {**PXE, Option.CLIENT_ARCHITECTURE: b"\0\x06"})) is not None
    event = lab.told[0].message
    assert isinstance(event, BootEvent)
    assert event.status is Status.DEGRADED
    assert event.reason == "there is no loader for architecture 6: the node got an address alone"


def test_an_unknown_machine_gets_nothing_and_is_told_of_twice_a_minute_at_most() -> None:
    lab = Lab()
    before = count("dropped", reason="unknown-mac")
    options = {**PXE, Option.CLIENT_MACHINE_IDENTIFIER: b"\0" + bytes(range(16))}
    packet = request(MessageType.DISCOVER, options, chaddr=UNKNOWN, giaddr="10.88.0.254")
    assert [lab.send(packet, seconds) for seconds in range(60)] == [None] * 60
    assert count("dropped", reason="unknown-mac") == before + 60
    assert [notice.subject for notice in lab.told] == ["evt.machine.525400ffffff.seen"] * 2
    assert lab.told[0] == Notice(
        "evt.machine.525400ffffff.seen",
        MachineSeen(
            mac="52:54:00:ff:ff:ff",
            at=START,
            vendor_class="PXEClient:Arch:00007:UNDI:003000",
            architecture=7,
            uuid="000102030405060708090a0b0c0d0e0f",
            relay="10.88.0.254",
        ),
    )


def test_a_flood_of_made_up_machines_is_told_of_within_bounds() -> None:
    lab = Lab()
    for n in range(10_000):
        lab.send(request(MessageType.DISCOVER, chaddr=b"\x02" + n.to_bytes(5, "big")), n / 1000)
    assert len(lab.told) == 4096


def test_a_hostile_text_becomes_a_printable_one() -> None:
    lab = Lab()
    lab.send(request(MessageType.DISCOVER, {Option.VENDOR_CLASS: b"\x1b[2J\n\xff" + b"x" * 500}, chaddr=UNKNOWN))
    seen = lab.told[0].message
    assert isinstance(seen, MachineSeen)
    assert seen.vendor_class == "?[2J??" + "x" * 249


def test_a_declined_address_is_a_failed_boot_with_its_reason() -> None:
    lab = Lab()
    declined = request(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: packed("10.77.0.11")})
    other = request(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: packed("10.77.0.12")})
    assert [lab.send(packet) for packet in (declined, declined, other)] == [None] * 3
    (notice,) = lab.told
    assert notice.subject == "evt.boot.n001.dhcp.ack"
    assert isinstance(notice.message, BootEvent)
    assert notice.message.status is Status.FAILED
    assert "another machine answers at this address" in (notice.message.reason or "")


def test_a_copy_of_the_records_that_may_be_outdated_refuses_nobody() -> None:
    ask = request(MessageType.REQUEST, {Option.REQUESTED_ADDRESS: packed("10.77.0.99")})
    assert Lab(current=False).send(ask) is None
    refused = Lab(current=True).send(ask)
    assert refused is not None
    assert decode(refused.payload).message_type is MessageType.NAK


def test_what_cannot_be_answered_is_named_in_the_log_once_a_minute() -> None:
    lab = Lab(cluster(template="missing"))
    with capture_logs() as logs:
        for seconds in (0, 1, 2, 61):
            assert lab.send(request(MessageType.DISCOVER), seconds) is None
    assert [entry["event"] for entry in logs] == ["dhcp.unresolvable"] * 2
    assert logs[0]["reason"] == "node n001 uses template 'missing', which does not exist"


def test_a_node_in_the_wrong_network_is_named_in_the_log() -> None:
    with capture_logs() as logs:
        assert Lab().send(request(MessageType.DISCOVER, giaddr="10.88.0.254")) is None
    assert logs == [
        {
            "event": "dhcp.other_network",
            "log_level": "warning",
            "node": "n001",
            "relay": "10.88.0.254",
            "expected": "10.77.0.0/24",
        }
    ]


def test_more_relay_information_than_fits_is_dropped_and_told() -> None:
    before = count("dropped", reason="too-large")
    packet = request(MessageType.DISCOVER, {Option.RELAY_AGENT_INFORMATION: b"\x01\xfe" + b"r" * 254 + b"\x02\xfe" +
                                            b"r" * 254}, giaddr="10.77.0.9")  # fmt: skip
    with capture_logs() as logs:
        assert Lab().send(packet) is None
    assert count("dropped", reason="too-large") == before + 1
    assert logs[0]["event"] == "dhcp.too_large"


@given(st.binary(max_size=1200))
def test_no_bytes_raise(data: bytes) -> None:
    assert Lab().send(data) is None


def test_no_mutation_of_a_real_packet_raises() -> None:
    chance = random.Random(4)
    names = ("ipxe-bios", "ovmf-pxe", "ovmf-http", "udhcpc", "dhclient")
    originals = [captured(f"{name}-discover") for name in names]
    lab = Lab()
    answered = 0
    for round_ in range(6000):
        data = bytearray(chance.choice(originals))
        data[28:34] = bytes.fromhex("525400770011")
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        answered += lab.send(bytes(data), float(round_)) is not None
    assert answered > 1000  # the mutations reach the answers, not only the first check
