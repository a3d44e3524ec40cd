"""Sender and receiver: alone against scripted peers, and back to back over a network that is a list."""

import heapq
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_tftp_protocol import (
    Ack,
    Address,
    Content,
    ContentWanted,
    Data,
    Ended,
    Error,
    ErrorCode,
    Limits,
    OptionAck,
    Outcome,
    ReadRequest,
    Receiver,
    Sender,
    encode,
    parse,
)

CLIENT, SERVER, WELL_KNOWN = ("10.0.0.2", 2000), ("10.0.0.1", 40000), ("10.0.0.1", 69)
STRANGER = ("10.0.0.3", 2000)

Machine = Sender | Receiver


def feed(sender: Sender, content: bytes, now: float = 0.0) -> list[Any]:
    """Answer what the sender wants of `content`; its other events."""
    others = []
    while (event := sender.next_event()) is not None:
        if isinstance(event, ContentWanted):
            sender.receive_content(content[event.offset : event.offset + event.size], now)
        else:
            others.append(event)
    return others


def sent(machine: Machine, now: float = 0.0) -> list[Any]:
    return [parse(data) for data, _ in machine.datagrams_to_send(now)]


def sender_of(
    content: bytes, options: dict[str, str] | None = None, *, mode: str = "octet", limits: Limits | None = None
) -> Sender:
    sender = Sender(ReadRequest("f", mode, options or {}), CLIENT, len(content), 0.0, limits)
    feed(sender, content)
    return sender


def ack(sender: Sender, block: int, now: float = 0.0) -> None:
    sender.receive_datagram(encode(Ack(block)), CLIENT, now)


# --- the sender alone ---------------------------------------------------------------------------------------------


def test_lockstep_as_rfc_1350_has_it() -> None:
    content = bytes(range(256)) * 3
    sender = sender_of(content)
    assert sent(sender) == [Data(1, content[:512])]
    ack(sender, 1)
    assert sent(sender) == [Data(2, content[512:])]
    ack(sender, 2)
    assert feed(sender, content) == [Ended(Outcome.COMPLETED)]
    assert sender.get_timer() is None
    assert sent(sender) == []


@pytest.mark.parametrize(("size", "blocks"), [(0, 1), (511, 1), (512, 2), (513, 2), (1024, 3)])
def test_the_last_block_is_always_short(size: int, blocks: int) -> None:
    sender = sender_of(bytes(size))
    for block in range(1, blocks + 1):
        (data,) = sent(sender)
        assert data.block == block
        assert (len(data.content) < 512) == (block == blocks)
        ack(sender, block)
    assert feed(sender, b"")[-1].outcome is Outcome.COMPLETED


def test_options_are_offered_first_and_data_waits_for_their_ack() -> None:
    content = bytes(2000)
    sender = sender_of(content, {"blksize": "1000", "tsize": "0", "multicast": ""})
    assert sent(sender) == [OptionAck({"blksize": "1000", "tsize": "2000"})]
    ack(sender, 0)
    feed(sender, content)
    assert [len(data.content) for data in sent(sender)] == [1000]


def test_a_size_probe_that_ends_with_error_8_is_no_failure() -> None:
    sender = sender_of(bytes(9), {"tsize": "0"})
    sender.receive_datagram(encode(Error(8, "User aborted the transfer")), CLIENT, 0.1)
    (ended,) = feed(sender, bytes(9))
    assert ended.outcome is Outcome.PROBED
    assert sent(sender)[1:] == []
    assert sender.get_timer() is None


def test_an_error_in_the_middle_ends_the_transfer_and_tells_what_the_client_said() -> None:
    sender = sender_of(bytes(2000))
    ack(sender, 1)
    sender.receive_datagram(encode(Error(3, "disk full")), CLIENT, 0.1)
    (ended,) = feed(sender, bytes(2000))
    assert ended.outcome is Outcome.ABORTED
    assert "disk full" in ended.reason
    assert "block 1" in ended.reason


def test_the_sorcerers_apprentice_finds_no_work() -> None:
    """A duplicated ACK must not cause a second DATA (RFC 1123 section 4.2.3.1)."""
    content = bytes(5000)
    sender = sender_of(content)
    sent(sender)
    for block in range(1, 5):
        ack(sender, block)
        ack(sender, block)
        ack(sender, block - 1)
        assert [data.block for data in sent(sender)] == [block + 1]


def test_acks_of_blocks_never_sent_change_nothing() -> None:
    sender = sender_of(bytes(5000))
    sent(sender)
    for block in (2, 7, 40000, 65535):
        ack(sender, block)
    assert sent(sender) == []


def test_a_stranger_is_told_and_the_transfer_goes_on() -> None:
    sender = sender_of(bytes(2000))
    sent(sender)
    sender.receive_datagram(encode(Ack(1)), STRANGER, 0.0)
    sender.receive_datagram(encode(Error(0, "die")), STRANGER, 0.0)
    sender.receive_datagram(b"\xff\xff\xff", STRANGER, 0.0)
    ((data, address),) = sender.datagrams_to_send(0.0)
    assert address == STRANGER
    assert parse(data) == Error(ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer ID")
    ack(sender, 1)
    assert [data.block for data in sent(sender)] == [2]


def test_a_request_on_the_transfer_port_is_illegal() -> None:
    sender = sender_of(bytes(2000))
    sent(sender)
    sender.receive_datagram(encode(ReadRequest("other")), CLIENT, 0.0)
    (error,) = sent(sender)
    assert error.code == ErrorCode.ILLEGAL_OPERATION
    assert feed(sender, b"")[-1].outcome is Outcome.FAILED


def test_what_is_lost_is_sent_again_ever_later_until_the_client_is_given_up() -> None:
    sender = sender_of(bytes(100))
    first = sent(sender)
    times = []
    while (due := sender.get_timer()) is not None:
        sender.handle_timer(due - 0.001)
        assert sent(sender) == []
        sender.handle_timer(due)
        again = sent(sender)
        assert again in (first, [])
        times.append(due)
    assert times == [1, 3, 7, 15, 23, 31]
    (ended,) = feed(sender, b"")
    assert ended == Ended(Outcome.TIMED_OUT, "the client never answered")


def test_the_offer_is_repeated_too() -> None:
    sender = sender_of(bytes(100), {"tsize": "0"})
    offer = sent(sender)
    sender.handle_timer(1.0)
    assert sent(sender) == offer


def test_duplicate_acks_do_not_keep_a_dead_transfer_alive() -> None:
    sender = sender_of(bytes(5000))
    sent(sender)
    ack(sender, 1, 0.01)
    now = 0.02
    for _ in range(1000):
        ack(sender, 1, now)
        due = sender.get_timer()
        if due is None:
            break
        now = due
        sender.handle_timer(now)
    assert feed(sender, b"")[-1].outcome is Outcome.TIMED_OUT
    assert 30 <= now < 45


def test_the_timeout_option_sets_the_interval() -> None:
    sender = sender_of(bytes(100), {"timeout": "4"})
    ack(sender, 0, 0.5)
    feed(sender, bytes(100), 0.5)
    for due in (4.5, 8.5, 12.5):
        assert sender.get_timer() == due
        sender.handle_timer(due)


def test_the_interval_follows_the_round_trips() -> None:
    sender = sender_of(bytes(100_000))
    for block in range(1, 20):
        ack(sender, block, block * 0.001)
    assert sender.get_timer() == pytest.approx(0.019 + 0.25)


def test_block_numbers_roll_over_to_zero() -> None:
    content = bytes(8 * 65540 + 3)
    sender = sender_of(content, {"blksize": "8"})
    ack(sender, 0)
    for block in range(1, 65542):
        feed(sender, content)
        data = sent(sender)[-1]
        assert data.block == block & 0xFFFF
        ack(sender, block & 0xFFFF)
    assert data.content == bytes(3)
    assert feed(sender, content) == [Ended(Outcome.COMPLETED)]


def test_a_window_goes_out_at_once_and_a_gap_is_filled_from_where_it_began() -> None:
    content = bytes(512 * 10)
    sender = sender_of(content, {"windowsize": "4"})
    sent(sender)
    ack(sender, 0)
    feed(sender, content)
    assert [data.block for data in sent(sender)] == [1, 2, 3, 4]
    ack(sender, 2)
    assert [data.block for data in sent(sender)] == [3, 4, 5, 6]
    ack(sender, 6)
    assert [data.block for data in sent(sender)] == [7, 8, 9, 10]


def test_in_a_window_a_duplicate_ack_hastens_the_timer_and_no_more() -> None:
    content = bytes(512 * 100)
    sender = sender_of(content, {"windowsize": "4"})
    sent(sender)
    ack(sender, 0, 0.01)
    feed(sender, content, 0.01)
    ack(sender, 4, 0.02)
    sent(sender)
    ack(sender, 4, 0.021)
    assert sent(sender) == []
    due = sender.get_timer()
    assert due is not None
    assert 0.021 < due <= 0.05
    sender.handle_timer(due)
    assert [data.block for data in sent(sender)] == [5, 6, 7, 8]


def test_netascii_turns_line_ends_and_tells_no_size() -> None:
    content = b"a\nb\r\nc\r" * 100
    sender = sender_of(content, {"tsize": "0"}, mode="netascii")
    wire = content.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
    got = b""
    for block in range(1, len(wire) // 512 + 2):
        (data,) = sent(sender)
        got += data.content
        ack(sender, block)
    assert got == wire
    assert feed(sender, content) == [Ended(Outcome.COMPLETED)]


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mail"):
        Sender(ReadRequest("f", "mail"), CLIENT, 1, 0.0)


def test_a_file_that_shrinks_while_it_is_sent_fails_with_its_reason() -> None:
    sender = Sender(ReadRequest("f"), CLIENT, 3000, 0.0)
    wanted = sender.next_event()
    assert wanted == ContentWanted(0, 3000)
    sender.receive_content(bytes(2999), 0.0)
    (error,) = sent(sender)
    assert error.message == "the file ends at 2999 of 3000 bytes"
    assert sender.next_event() == Ended(Outcome.FAILED, error.message)


def test_content_is_asked_for_in_pieces_and_ahead_of_need() -> None:
    size = 1 << 20
    sender = Sender(ReadRequest("f", "octet", {"blksize": "1024"}), CLIENT, size, 0.0)
    wanted, held, block = [], 0, 0
    while not (event := sender.next_event()) or not isinstance(event, Ended):
        if isinstance(event, ContentWanted):
            wanted.append(event)
            held += event.size
            sender.receive_content(bytes(event.size), 0.0)
            assert held - block * 1024 <= 270 * 1024
        elif event is None:
            ack(sender, block & 0xFFFF)
            block += 1
    assert sum(event.size for event in wanted) == size
    assert [event.offset for event in wanted] == [sum(e.size for e in wanted[:n]) for n in range(len(wanted))]


# --- the receiver alone -------------------------------------------------------------------------------------------


def receiver(options: dict[str, str] | None = None) -> Receiver:
    machine = Receiver("f", WELL_KNOWN, options or {}, 0.0)
    ((data, address),) = machine.datagrams_to_send(0.0)
    assert (parse(data), address) == (ReadRequest("f", "octet", options or {}), WELL_KNOWN)
    return machine


def events(machine: Machine) -> list[Any]:
    found = []
    while (event := machine.next_event()) is not None:
        found.append(event)
    return found


def test_the_last_block_is_acknowledged_again_when_its_ack_was_lost() -> None:
    machine = receiver()
    machine.receive_datagram(encode(Data(1, b"abc")), SERVER, 0.1)
    assert events(machine)[-2:] == [Content(b"abc"), Ended(Outcome.COMPLETED)]
    machine.receive_datagram(encode(Data(1, b"abc")), SERVER, 1.1)
    assert sent(machine) == [Ack(1), Ack(1)]


def test_a_second_transfer_for_a_repeated_request_is_refused() -> None:
    machine = receiver()
    machine.receive_datagram(encode(Data(1, bytes(512))), SERVER, 0.1)
    machine.receive_datagram(encode(Data(1, bytes(512))), ("10.0.0.1", 40001), 0.1)
    (first, second) = machine.datagrams_to_send(0.1)
    assert (parse(first[0]), first[1]) == (Ack(1), SERVER)
    assert parse(second[0]) == Error(ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer ID")
    assert second[1] == ("10.0.0.1", 40001)


def test_answers_of_another_host_are_refused() -> None:
    machine = receiver()
    machine.receive_datagram(encode(Data(1, b"evil")), STRANGER, 0.1)
    assert events(machine) == []


def test_an_option_that_was_not_asked_for_ends_with_error_8() -> None:
    machine = receiver({"blksize": "1024"})
    machine.receive_datagram(encode(OptionAck({"blksize": "2048"})), SERVER, 0.1)
    (error,) = sent(machine)
    assert error.code == ErrorCode.OPTION_REFUSED
    assert events(machine)[-1].outcome is Outcome.FAILED


def test_a_block_larger_than_agreed_is_refused() -> None:
    machine = receiver()
    machine.receive_datagram(encode(Data(1, bytes(513))), SERVER, 0.1)
    assert events(machine)[-1].outcome is Outcome.FAILED


def test_what_the_server_says_is_told() -> None:
    machine = receiver()
    machine.receive_datagram(encode(Error(1, "no such file")), SERVER, 0.1)
    (ended,) = events(machine)
    assert ended.outcome is Outcome.ABORTED
    assert "no such file" in ended.reason


def test_a_silent_server_is_given_up() -> None:
    machine = receiver()
    while (due := machine.get_timer()) is not None:
        machine.handle_timer(due)
    assert events(machine)[-1].outcome is Outcome.TIMED_OUT


# --- back to back -------------------------------------------------------------------------------------------------


class Network:
    """Carries datagrams between two machines: loses, doubles and delays them as a seeded random generator decides."""

    def __init__(self, seed: int, loss: float, duplication: float, jitter: float) -> None:
        self.random = random.Random(seed)
        self.loss, self.duplication, self.jitter = loss, duplication, jitter
        self.flying: list[tuple[float, int, bytes, Address, Address]] = []
        self.count = self.carried = 0

    def send(self, now: float, data: bytes, source: Address, target: Address) -> None:
        for _ in range(2 if self.random.random() < self.duplication else 1):
            self.carried += 1
            if self.random.random() >= self.loss:
                self.count += 1
                arrival = now + 0.0005 + self.random.random() * self.jitter
                heapq.heappush(self.flying, (arrival, self.count, data, source, target))


class Exchange:
    """One receiver, the senders that its requests called for, and the network between them."""

    def __init__(self, content: bytes, options: dict[str, str], network: Network) -> None:
        self.content, self.network, self.now = content, network, 0.0
        self.client = Receiver("f", WELL_KNOWN, options, 0.0)
        self.machines: dict[Address, Machine] = {CLIENT: self.client}
        self.got = bytearray()
        self.ends: dict[Address, Ended] = {}

    def run(self) -> None:
        """Carry on until nothing flies and no timer runs."""
        for _ in range(400_000):
            for address, machine in self.machines.items():
                self.drain(address, machine)
            timers = [due for machine in self.machines.values() if (due := machine.get_timer()) is not None]
            if self.network.flying and (not timers or self.network.flying[0][0] <= min(timers)):
                self.deliver()
            elif timers:
                self.now = min(timers)
                for machine in self.machines.values():
                    machine.handle_timer(self.now)
            else:
                return
        raise AssertionError("the transfer does not come to an end")

    def drain(self, address: Address, machine: Machine) -> None:
        while (event := machine.next_event()) is not None:
            if isinstance(event, ContentWanted) and isinstance(machine, Sender):
                machine.receive_content(self.content[event.offset : event.offset + event.size], self.now)
            elif isinstance(event, Content):
                self.got += event.data
            elif isinstance(event, Ended):
                self.ends[address] = event
        for data, target in machine.datagrams_to_send(self.now):
            self.network.send(self.now, data, address, target)

    def deliver(self) -> None:
        self.now, _, data, source, target = heapq.heappop(self.network.flying)
        if target == WELL_KNOWN:
            port = ("10.0.0.1", 40000 + len(self.machines))
            request = parse(data)
            assert isinstance(request, ReadRequest)
            self.machines[port] = Sender(request, source, len(self.content), self.now, Limits())
        else:
            self.machines[target].receive_datagram(data, source, self.now)


def transfer(content: bytes, options: dict[str, str], network: Network) -> tuple[bytes, dict[Address, Ended], float]:
    """Run both machines to their end; what the receiver got, how each ended, and the seconds it took."""
    exchange = Exchange(content, options, network)
    exchange.run()
    return bytes(exchange.got), exchange.ends, exchange.now


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 100_000])
@pytest.mark.parametrize("options", [{}, {"blksize": "1428"}, {"blksize": "512", "windowsize": "8", "tsize": "0"}])
def test_over_a_good_network_nothing_is_sent_twice(size: int, options: dict[str, str]) -> None:
    content = random.Random(size).randbytes(size)
    network = Network(0, 0.0, 0.0, 0.0)
    got, ends, _ = transfer(content, options, network)
    assert got == content
    assert {end.outcome for end in ends.values()} == {Outcome.COMPLETED}
    blocks = size // int(options.get("blksize", 512)) + 1
    window = int(options.get("windowsize", 1))
    overhead = 3 if options else 1
    assert network.carried == blocks + -(-blocks // window) + overhead


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(0, 30_000),
    block=st.sampled_from([None, 8, 100, 512, 1428]),
    window=st.sampled_from([None, 1, 2, 7, 64]),
    loss=st.sampled_from([0.0, 0.01, 0.1]),
    duplication=st.sampled_from([0.0, 0.1, 1.0]),
    jitter=st.sampled_from([0.0, 0.001, 0.02]),
)
def test_loss_duplication_and_reordering_are_mended(
    seed: int, size: int, block: int, window: int, loss: float, duplication: float, jitter: float
) -> None:
    content = random.Random(seed).randbytes(size if block != 8 else size // 20)
    options = {} if block is None else {"blksize": str(block)}
    if window is not None:
        options["windowsize"] = str(window)
    network = Network(seed, loss, duplication, jitter)
    got, ends, _ = transfer(content, options, network)
    assert ends[CLIENT].outcome is Outcome.COMPLETED
    assert got == content


@pytest.mark.parametrize("window", [1, 4, 32])
def test_duplication_does_not_multiply_the_traffic(window: int) -> None:
    """Every datagram arrives twice: what is carried may double, not grow with the length of the file."""
    content = bytes(512 * 400)
    network = Network(7, 0.0, 1.0, 0.0)
    got, _, seconds = transfer(content, {"windowsize": str(window)}, network)
    assert got == content
    single = 400 + 400 // window
    assert network.carried < 4.5 * single
    assert seconds < 5


def test_a_little_loss_costs_little_time() -> None:
    content = bytes(1428 * 2000)
    got, _, seconds = transfer(content, {"blksize": "1428", "windowsize": "16"}, Network(3, 0.01, 0.0, 0.0002))
    assert got == content
    assert seconds < 10


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.binary(max_size=60) | st.builds(encode, st.builds(Ack, st.integers(0, 65535))), st.booleans()),
        max_size=60,
    )
)
def test_no_datagram_makes_a_machine_raise(datagrams: list[tuple[bytes, bool]]) -> None:
    sender, client = sender_of(bytes(4000), {"windowsize": "3"}), receiver({"windowsize": "3"})
    for now, (data, known) in enumerate(datagrams):
        sender.receive_datagram(data, CLIENT if known else STRANGER, float(now))
        client.receive_datagram(data, SERVER if known else STRANGER, float(now))
        feed(sender, bytes(4000), float(now))
        assert len(sender.datagrams_to_send(0.0)) <= 4
        client.datagrams_to_send(0.0)
