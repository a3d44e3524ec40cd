"""What dhcp answers to whom: the tables of RFC 2131, section 4.3, for leases that are assignments."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given, settings

from lab.dhcp_cluster import HEAD, cluster, find_in
from lab.dhcp_packets import packed, packets, request
from shoal_dhcp.answers import Decision, Noted, Reason, Reply, Silence, answer
from shoal_dhcp.replies import DISPENSABLE
from shoal_dhcp4 import (
    DEFAULT_LIMIT,
    MessageType,
    Op,
    Option,
    Packet,
    RemoteProtocolError,
    decode,
    destination,
    encode,
    fitted,
)
from shoal_model.resolve import Unresolvable

DISCOVER, REQUEST, INFORM = MessageType.DISCOVER, MessageType.REQUEST, MessageType.INFORM
FAR_MAC, NIC_MAC = bytes.fromhex("525400880011"), bytes.fromhex("525400990012")
FIND = find_in(cluster())
PXE = b"PXEClient:Arch:00000:UNDI:002001"


def decide(packet: Packet, *, current: bool = True) -> Decision:
    return answer(packet, FIND, current=current)


def replied(packet: Packet) -> Packet:
    decision = decide(packet)
    assert isinstance(decision, Reply), decision
    return decision.packet


def silent(packet: Packet, *, current: bool = True) -> Reason:
    decision = decide(packet, current=current)
    assert isinstance(decision, Silence), decision
    return decision.reason


def test_a_discover_of_a_registered_node_gets_an_offer() -> None:
    offer = replied(request(DISCOVER, {Option.CLIENT_IDENTIFIER: b"\x01abc"}, secs=4))
    assert (offer.op, offer.xid, offer.htype, offer.chaddr) == (Op.REPLY, 0x12345678, 1, bytes.fromhex("525400770011"))
    assert (str(offer.yiaddr), str(offer.siaddr), str(offer.ciaddr), str(offer.giaddr)) == (
        "10.77.0.11",
        HEAD,
        "0.0.0.0",
        "0.0.0.0",
    )
    assert offer.options == {
        Option.MESSAGE_TYPE: b"\x02",
        Option.SERVER_IDENTIFIER: packed(HEAD),
        Option.LEASE_TIME: (43200).to_bytes(4, "big"),
        Option.SUBNET_MASK: packed("255.255.255.0"),
        Option.ROUTER: packed("10.77.0.254"),
        Option.DOMAIN_NAME_SERVER: packed("10.77.0.1") + packed("10.77.0.2"),
        Option.HOST_NAME: b"n001",
        Option.DOMAIN_NAME: b"cluster.test",
        Option.BROADCAST_ADDRESS: packed("10.77.0.255"),
        Option.CLIENT_IDENTIFIER: b"\x01abc",
    }
    assert offer.file == b""


def test_the_host_name_is_the_nodes_name() -> None:
    offer = replied(request(DISCOVER, chaddr=bytes.fromhex("525400770012")))
    assert offer.options[Option.HOST_NAME] == b"beo-02"


SELECTING = {Option.SERVER_IDENTIFIER: packed(HEAD), Option.REQUESTED_ADDRESS: packed("10.77.0.11")}


@pytest.mark.parametrize(
    ("options", "fields", "to"),
    [
        pytest.param(SELECTING, {}, "10.77.0.11", id="selecting"),
        pytest.param(SELECTING, {"flags": 0x8000}, "255.255.255.255", id="selecting, by broadcast"),
        pytest.param({Option.REQUESTED_ADDRESS: packed("10.77.0.11")}, {}, "10.77.0.11", id="init-reboot"),
        pytest.param({}, {"ciaddr": "10.77.0.11"}, "10.77.0.11", id="renewing or rebinding"),
    ],
)
def test_a_request_for_the_assigned_address_gets_an_ack(
    options: dict[int, bytes], fields: dict[str, Any], to: str
) -> None:
    ack = replied(request(REQUEST, options, **fields))
    assert ack.message_type is MessageType.ACK
    assert str(ack.yiaddr) == "10.77.0.11"
    assert str(ack.ciaddr) == fields.get("ciaddr", "0.0.0.0")
    assert ack.options[Option.LEASE_TIME] == (43200).to_bytes(4, "big")
    assert str(destination(ack).address) == to


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        pytest.param({**SELECTING, Option.REQUESTED_ADDRESS: packed("10.77.0.99")}, {}, id="selecting"),
        pytest.param({Option.REQUESTED_ADDRESS: packed("192.168.1.4")}, {}, id="init-reboot"),
        pytest.param({}, {"ciaddr": "10.77.0.12"}, id="rebinding"),
    ],
)
def test_a_request_for_any_other_address_is_refused_unless_our_records_may_be_outdated(
    options: dict[int, bytes], fields: dict[str, Any]
) -> None:
    packet = request(REQUEST, options, **fields)
    nak = replied(packet)
    assert nak.options.keys() == {Option.MESSAGE_TYPE, Option.SERVER_IDENTIFIER, Option.MESSAGE}
    assert nak.message_type is MessageType.NAK
    assert (str(nak.yiaddr), str(nak.ciaddr), str(nak.siaddr)) == ("0.0.0.0",) * 3
    assert b"is not the address of n001" in nak.options[Option.MESSAGE]
    assert str(destination(nak).address) == "255.255.255.255"
    assert silent(packet, current=False) is Reason.MAYBE_OUTDATED


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (request(DISCOVER, chaddr=bytes.fromhex("525400ffffff")), Reason.UNKNOWN_MAC),
        (request(REQUEST, SELECTING, chaddr=bytes.fromhex("525400ffffff")), Reason.UNKNOWN_MAC),
        (request(REQUEST, {**SELECTING, Option.SERVER_IDENTIFIER: packed("10.77.0.3")}), Reason.OTHER_SERVER),
        (request(REQUEST), Reason.NO_ADDRESS),
        (request(INFORM), Reason.NO_ADDRESS),
        (request(INFORM, ciaddr="192.0.2.1"), Reason.OTHER_NETWORK),
        (request(DISCOVER, chaddr=FAR_MAC), Reason.OTHER_NETWORK),
        (request(DISCOVER, giaddr="10.88.0.254"), Reason.OTHER_NETWORK),
        (request(DISCOVER, chaddr=NIC_MAC), Reason.OTHER_NETWORK),
        (request(DISCOVER, chaddr=FAR_MAC, giaddr="192.0.2.1"), Reason.OTHER_NETWORK),
        (request(REQUEST, ciaddr="10.77.0.200", chaddr=FAR_MAC), Reason.OTHER_NETWORK),
        (request(MessageType.OFFER), Reason.NO_REQUEST),
        (request(MessageType.ACK), Reason.NO_REQUEST),
        (request(DISCOVER, op=Op.REPLY), Reason.NO_REQUEST),
        (replace(request(DISCOVER), options={}), Reason.NO_REQUEST),
    ],
)
def test_silence(packet: Packet, reason: Reason) -> None:
    assert silent(packet) is reason


def test_an_inform_gets_parameters_without_a_lease() -> None:
    ack = replied(request(INFORM, ciaddr="10.77.0.50"))
    assert ack.message_type is MessageType.ACK
    assert Option.LEASE_TIME not in ack.options
    assert ack.options[Option.DOMAIN_NAME] == b"cluster.test"
    assert (str(ack.yiaddr), str(destination(ack).address)) == ("0.0.0.0", "10.77.0.50")


@pytest.mark.parametrize(
    ("packet", "address"),
    [
        (request(MessageType.DECLINE, {Option.REQUESTED_ADDRESS: packed("10.77.0.11")}), "10.77.0.11"),
        (request(MessageType.RELEASE, ciaddr="10.77.0.11"), "10.77.0.11"),
    ],
)
def test_decline_and_release_are_noted(packet: Packet, address: str) -> None:
    decision = decide(packet)
    assert isinstance(decision, Noted)
    assert (decision.kind, decision.given.node, decision.address) == (
        packet.message_type,
        "n001",
        IPv4Address(address),
    )


RELAYED = {Option.RELAY_AGENT_INFORMATION: bytes.fromhex("0102aabb")}


def test_a_relayed_request_is_answered_to_the_relay_with_its_information_last() -> None:
    offer = replied(
        request(DISCOVER, {**RELAYED, Option.CLIENT_IDENTIFIER: b"\x01x"}, chaddr=FAR_MAC, giaddr="10.88.0.254")
    )
    assert str(offer.yiaddr) == "10.88.0.11"
    assert offer.options[Option.ROUTER] == packed("10.88.0.254")
    assert offer.options[Option.SERVER_IDENTIFIER] == packed(HEAD)
    assert list(offer.options)[-1] == Option.RELAY_AGENT_INFORMATION
    assert offer.options[Option.RELAY_AGENT_INFORMATION] == bytes.fromhex("0102aabb")
    assert (str(destination(offer).address), destination(offer).port) == ("10.88.0.254", 67)


def test_a_relay_may_say_which_network_it_means() -> None:
    options = {Option.RELAY_AGENT_INFORMATION: bytes.fromhex("0504") + packed("10.88.0.0")}
    assert str(replied(request(DISCOVER, options, chaddr=FAR_MAC, giaddr="192.0.2.9")).yiaddr) == "10.88.0.11"
    short = {Option.RELAY_AGENT_INFORMATION: bytes.fromhex("05030a5800")}
    with pytest.raises(RemoteProtocolError, match=r"82\.5"):
        decide(request(DISCOVER, short, chaddr=FAR_MAC, giaddr="192.0.2.9"))


def test_a_refusal_through_a_relay_is_to_be_broadcast_by_it() -> None:
    nak = replied(
        request(REQUEST, {Option.REQUESTED_ADDRESS: packed("10.1.1.1")}, giaddr="10.88.0.254", chaddr=FAR_MAC)
    )
    assert nak.broadcast
    assert str(destination(nak).address) == "10.88.0.254"


def test_a_routed_renewal_needs_no_relay() -> None:
    assert str(replied(request(REQUEST, ciaddr="10.88.0.11", chaddr=FAR_MAC)).yiaddr) == "10.88.0.11"


def test_a_further_interface_gets_its_address_and_nothing_to_boot() -> None:
    offer = replied(request(DISCOVER, {Option.VENDOR_CLASS: PXE}, chaddr=NIC_MAC, giaddr="10.99.0.254"))
    assert (str(offer.yiaddr), str(offer.siaddr), offer.file) == ("10.99.0.12", "0.0.0.0", b"")
    assert not offer.options.keys() & {Option.ROUTER, Option.BOOT_FILE_NAME, Option.VENDOR_CLASS}


def test_a_node_that_the_records_cannot_explain_is_named() -> None:
    find = find_in(cluster(template="missing"))
    with pytest.raises(Unresolvable, match="node n001 uses template 'missing'"):
        answer(request(DISCOVER), find, current=True)


@given(packets)
@settings(max_examples=300)
def test_any_packet_gets_a_decision_whose_reply_can_be_sent(packet: Packet) -> None:
    for mac in (packet.chaddr, FAR_MAC, bytes.fromhex("525400770011")):
        asked = replace(packet, op=Op.REQUEST, chaddr=mac, htype=1)
        try:
            decision = decide(asked)
        except RemoteProtocolError:
            continue
        if isinstance(decision, Reply):
            assert decode(encode(decision.packet)) == decision.packet


def test_a_reply_fits_what_every_client_takes() -> None:
    options = {
        Option.VENDOR_CLASS: PXE,
        Option.CLIENT_ARCHITECTURE: b"\0\0",
        Option.CLIENT_IDENTIFIER: b"i" * 250,
        Option.CLIENT_MACHINE_IDENTIFIER: b"u" * 17,
        Option.RELAY_AGENT_INFORMATION: b"\x01\x78" + b"r" * 120,
    }
    offer = replied(request(DISCOVER, options, giaddr="10.77.0.9"))
    data = fitted(offer, DEFAULT_LIMIT, DISPENSABLE)
    assert len(data) <= DEFAULT_LIMIT
    kept = decode(data)
    assert kept.options.keys() > {53, 54, 51, 1, 67, 60, 43, 82}
    assert Option.CLIENT_IDENTIFIER not in kept.options
    assert kept.file == b"pxelinux.0"
