"""A sender and its receivers back to back in memory: loss, disorder, duplicates, late and dead receivers, damage."""

import hashlib
import heapq
import itertools
import mmap
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_mcast import wire
from shoal_mcast.geometry import Geometry
from shoal_mcast.image_file import ImageFile
from shoal_mcast.receiver import Receiver
from shoal_mcast.sender import Burst, Options, Sender

SESSION = 0xC0FFEE42
DELAY = 0.001


def _geometry(blocks: float = 20, symbols: int = 128) -> Geometry:
    return Geometry(max(1, int(blocks * symbols * 64) - 13), 64, symbols)


def _image(geometry: Geometry, content: bytes) -> ImageFile:
    hashes = [hashlib.sha256(content[slice(*geometry.span(b))]).hexdigest() for b in range(geometry.blocks)]
    return ImageFile(mmap.mmap(-1, geometry.size), geometry, hashes)


@dataclass
class Node:
    """A receiver, the network before it, and how fast it takes datagrams."""

    receiver: Receiver
    loss: float = 0.0
    duplicates: float = 0.0
    disorder: float = 0.0
    dead: bool = False
    done_at: float | None = None
    address: str = "10.0.0.1"
    inbox: list[bytes] = field(default_factory=list)


class Lab:
    """Simulated time. Each datagram travels to each node on its own; a burst arrives as GRO would hand it over."""

    def __init__(self, geometry: Geometry, *, rate: float = 5e6, seed: int = 1, merge: bool = True) -> None:
        self.geometry = geometry
        self.random = random.Random(seed)
        self.content = self.random.randbytes(geometry.size)
        self.sent_content = memoryview(bytearray(self.content))
        self.merge = merge
        self.now = 0.0
        self.nodes: list[Node] = []
        self.sender = Sender(SESSION, bytes(32), geometry, self._read, Options(rate, silence=5.0))
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def _read(self, block: int) -> memoryview:
        return self.sent_content[slice(*self.geometry.span(block))]

    def node(self, **how: float) -> Node:
        identity = 1000 + len(self.nodes)
        node = Node(Receiver(_image(self.geometry, self.content), SESSION, identity, 4000), **how)  # type: ignore[arg-type]
        node.address = f"10.0.0.{len(self.nodes) + 1}"
        self.nodes.append(node)
        self.sender.add(identity, node.address, self.now)
        return node

    def at(self, when: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def run(self, *, start: float = 0.1, until: float = 60.0) -> None:
        self.at(start, self.sender.start)
        while not self.sender.ended and self.now < until:
            burst = self.sender.next(self.now)
            if burst is not None:
                self._carry(burst)
                continue
            upcoming = self._events[0][0] if self._events else until
            self.now = min(upcoming, self.now + max(self.sender.wait(self.now), 1e-6))
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()

    def _carry(self, burst: Burst) -> None:
        whole = b"".join(burst.parts)
        size = len(whole) // burst.segments
        datagrams = [whole[start : start + size] for start in range(0, len(whole), size)]
        for node in self.nodes:
            self._towards(node, datagrams)

    def _towards(self, node: Node, datagrams: list[bytes]) -> None:
        batch: list[bytes] = []
        for datagram in datagrams:
            for _ in range(2 if self.random.random() < node.duplicates else 1):
                if self.random.random() < node.loss:
                    continue
                if self.random.random() < node.disorder:
                    late = self.now + DELAY * self.random.uniform(1, 4)
                    self.at(late, lambda d=datagram: self._arrive(node, [d]))  # type: ignore[misc]
                else:
                    batch.append(datagram)
        groups: Iterator[list[bytes]] = iter([batch] if self.merge else [[one] for one in batch])
        for group in groups:
            if group:
                self.at(self.now + DELAY, lambda g=group: self._arrive(node, g))  # type: ignore[misc]

    def _arrive(self, node: Node, datagrams: list[bytes]) -> None:
        if node.dead:
            return
        data = bytearray(b"".join(datagrams))
        node.receiver.receive(data, len(data), len(datagrams[0]), self.now)
        while node.receiver.work():
            pass
        answers = node.receiver.reports(self.now)
        if node.receiver.image.complete and node.done_at is None:
            node.done_at = self.now
            answers += [node.receiver.farewell()] * 3
            node.dead = True  # as the client, which ends then; if all three are lost, it is missed by its silence
        for answer in answers:
            if self.random.random() >= node.loss:
                self.at(self.now + DELAY, lambda a=answer: self.sender.receive(a, node.address, self.now))  # type: ignore[misc]

    @property
    def ratio(self) -> float:
        return self.sender.status.sent / self.geometry.size

    def assert_all_have_it(self) -> None:
        for node in self.nodes:
            assert node.dead or node.receiver.image.complete
            assert node.dead or bytes(node.receiver.image.buffer) == self.content


FLOOR = (64 + wire.HEADER_SIZE) / 64
"""Bytes sent for a byte of image at no loss: the header is large beside these small symbols."""


@pytest.mark.parametrize(("loss", "most"), [(0.0, 1.03), (0.01, 1.12), (0.05, 1.25), (0.2, 1.75)])
@pytest.mark.parametrize("merge", [True, False])
def test_every_receiver_gets_the_image_for_little_more_than_its_size(loss: float, most: float, merge: bool) -> None:
    lab = Lab(_geometry(), merge=merge)
    for _ in range(4):
        lab.node(loss=loss)
    lab.run()
    lab.assert_all_have_it()
    assert lab.sender.ended
    assert lab.ratio <= most * FLOOR
    assert (lab.sender.status.repairs > 0) == (loss > 0)


def test_a_hundred_receivers_cost_hardly_more_than_two() -> None:
    ratios = []
    for count in (2, 100):
        lab = Lab(_geometry(8))
        for _ in range(count):
            lab.node(loss=0.01)
        lab.run()
        lab.assert_all_have_it()
        ratios.append(lab.ratio)
    assert ratios[1] < ratios[0] * 1.15


@settings(max_examples=15)
@given(
    st.floats(0.1, 6.0), st.integers(2, 200), st.floats(0, 0.25), st.floats(0, 0.1), st.floats(0, 0.2),
    st.integers(0, 2**32),
)  # fmt: skip
def test_any_geometry_survives_loss_duplicates_and_disorder(
    blocks: float, symbols: int, loss: float, duplicates: float, disorder: float, seed: int
) -> None:
    lab = Lab(_geometry(blocks, symbols), seed=seed)
    for _ in range(2):
        lab.node(loss=loss, duplicates=duplicates, disorder=disorder)
    lab.run()
    lab.assert_all_have_it()
    assert lab.sender.ended


def test_a_late_joiner_is_served_by_the_same_stream_and_holds_nobody_up() -> None:
    alone = Lab(_geometry())
    first = alone.node()
    alone.run()
    assert first.done_at is not None
    lab = Lab(_geometry())
    early = lab.node()
    lab.at(first.done_at * 0.6, lab.node)
    lab.run()
    lab.assert_all_have_it()
    late = lab.nodes[1]
    assert early.done_at is not None
    assert late.done_at is not None
    assert early.done_at < first.done_at * 1.1
    assert late.done_at < first.done_at * 2.0
    assert lab.ratio < 1.8 * FLOOR


def test_a_receiver_that_dies_midway_does_not_stop_the_other() -> None:
    lab = Lab(_geometry())
    victim, other = lab.node(loss=0.02), lab.node(loss=0.02)
    lab.at(0.13, lambda: setattr(victim, "dead", True))
    lab.run()
    assert not victim.receiver.image.complete
    lab.assert_all_have_it()
    assert other.done_at is not None
    assert other.done_at < 3.0
    assert lab.sender.ended
    assert lab.sender.status.lost == 1
    assert lab.ratio < 1.5 * FLOOR


@pytest.mark.parametrize("step", [0, 1, -1])
def test_a_receiver_whose_mark_stands_still_holds_nobody_up(step: int) -> None:
    lab = Lab(_geometry())
    honest = lab.node()
    lab.sender.add(5000, "10.9.9.9", 0.0)
    for turn in range(400):
        message = wire.Progress(SESSION, 5000, turn * step % 2**32, 0, 1).encode()
        lab.at(turn * 0.05, lambda message=message: lab.sender.receive(message, "10.9.9.9", lab.now))  # type: ignore[misc]
    lab.run()
    lab.assert_all_have_it()
    assert honest.done_at is not None
    assert honest.done_at < 3.0
    assert lab.sender.ended
    assert lab.now < 10.0
    assert lab.sender.status.lost == 1


def test_a_receiver_that_always_wants_more_is_dropped() -> None:
    lab = Lab(_geometry(40))
    node = lab.node()
    for block in range(lab.geometry.blocks):
        lab.sent_content[block * lab.geometry.block_size] ^= 1  # so it never gets what it will believe
    lab.run()
    assert not node.receiver.image.complete
    assert lab.sender.ended
    assert lab.sender.status.lost == 1
    assert 2.5 * FLOOR < lab.ratio < 3.5 * FLOOR
    assert node.receiver.ended


def test_nothing_is_sent_to_nobody() -> None:
    lab = Lab(_geometry())
    lab.node().dead = True
    lab.run()
    assert lab.sender.ended
    assert lab.sender.status.ready == 0
    assert lab.sender.status.sent < 0.2 * lab.geometry.size


def test_who_leaves_is_not_served_any_more() -> None:
    lab = Lab(_geometry())
    node = lab.node()
    lab.at(0.12, lambda: lab.sender.remove(node.receiver.id))
    lab.run()
    assert lab.sender.ended
    assert lab.ratio < 0.5
    assert not node.receiver.image.complete
    assert node.receiver.ended


def test_verified_blocks_are_not_asked_for_again() -> None:
    lab = Lab(_geometry())
    node = lab.node()
    image = node.receiver.image
    for block in range(0, lab.geometry.blocks, 2):
        image.block(block)[:] = lab._read(block)
        assert image.verify(block)
    node.receiver = Receiver(image, SESSION, node.receiver.id, 4000)
    held = node.receiver.held
    assert held >= lab.geometry.symbols // 2
    lab.run()
    lab.assert_all_have_it()


def test_a_block_that_arrives_damaged_once_comes_again() -> None:
    lab = Lab(_geometry())
    node = lab.node()
    inner = node.receiver.receive
    spoilt: list[int] = []

    def receive(data: bytearray, length: int, segment: int, now: float) -> None:
        if not spoilt and data[6] == wire.SOURCE and length > 200:
            spoilt.append(data[5])
            data[100] ^= 1
        inner(data, length, segment, now)

    node.receiver.receive = receive  # type: ignore[method-assign]
    lab.run()
    assert spoilt
    lab.assert_all_have_it()
    assert node.receiver.failed is None


def test_a_damaged_store_is_named_as_the_reason() -> None:
    lab = Lab(_geometry())
    node = lab.node()
    lab.sent_content[3 * lab.geometry.block_size + 5] ^= 1
    lab.at(20.0, lambda: lab.sender.remove(node.receiver.id))
    lab.run()
    assert node.receiver.failed is not None
    assert "block 3 came 3 times" in node.receiver.failed
    assert node.receiver.image.missing == [3]


def test_a_slow_path_slows_the_sender_and_random_loss_does_not() -> None:
    lossy, slow = Lab(_geometry(100), rate=2e6), Lab(_geometry(100), rate=2e6)
    lossy.node(loss=0.05)
    lossy.run()
    node = slow.node()
    budget = [0.0, 0.0]
    inner = slow._towards

    def through_a_slow_port(target: Node, datagrams: list[bytes]) -> None:
        budget[0] = min(20_000, budget[0] + (slow.now - budget[1]) * 6e5)  # bytes that the port lets pass
        budget[1] = slow.now
        passing = []
        for datagram in datagrams:
            if budget[0] >= len(datagram):
                budget[0] -= len(datagram)
                passing.append(datagram)
        inner(target, passing)

    slow._towards = through_a_slow_port  # type: ignore[assignment, method-assign]
    slow.run()
    slow.assert_all_have_it()
    assert lossy.sender.status.rate > 1.9e6
    assert slow.sender.status.rate < 1.2e6
    assert slow.ratio < 1.6 * FLOOR
    assert node.done_at is not None


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(range(32)), st.binary(max_size=300), st.booleans()), max_size=30))
def test_enemy_datagrams_neither_crash_nor_corrupt(datagrams: list[tuple[int, bytes, bool]]) -> None:
    lab = Lab(_geometry(3, 16))
    node = lab.node()

    def attack() -> None:
        for kind, body, ours in datagrams:
            data = body
            if ours and len(body) >= wire.HEADER_SIZE:
                data = SESSION.to_bytes(4, "big") + body[4:6] + bytes([kind]) + body[7:]
            lab.sender.receive(data, node.address, lab.now)
            node.receiver.receive(bytearray(data), len(data), max(1, len(data)), lab.now)

    lab.at(0.101, attack)
    lab.run(until=20)
    image = node.receiver.image
    for block in range(lab.geometry.blocks):
        if image.verified[block]:
            assert bytes(image.block(block)) == lab.content[slice(*lab.geometry.span(block))]
    # an enemy with our session number may end the session or spoil a block, but says so
    assert image.complete or node.receiver.ended or node.receiver.failed or any(ours for _, _, ours in datagrams)


def test_reports_under_a_foreign_address_or_session_are_dropped() -> None:
    lab = Lab(_geometry())
    node = lab.node()
    done = wire.Done(SESSION, node.receiver.id).encode()
    lab.sender.receive(done, "10.9.9.9", 0.0)
    lab.sender.receive(wire.Done(1, node.receiver.id).encode(), node.address, 0.0)
    lab.sender.receive(wire.Done(SESSION, 7).encode(), node.address, 0.0)
    lab.sender.receive(b"", node.address, 0.0)
    assert lab.sender.status.rejected == 4
    assert lab.sender.status.complete == 0
    lab.sender.receive(done, node.address, 0.0)
    assert lab.sender.status.complete == 1


def test_bursts_are_of_equal_datagrams_and_fit_one_gso_send() -> None:
    geometry = Geometry(5_000_000, 1448, 1024)
    content = memoryview(bytes(geometry.size))
    sender = Sender(1, bytes(32), geometry, lambda b: content[slice(*geometry.span(b))], Options(1e12))
    sender.add(5, "10.0.0.1", 0.0)
    sender.start()
    sender.receive(wire.Progress(1, 5, 0, 0, 1_000_000).encode(), "10.0.0.1", 0.0)
    symbols = 0
    for step in range(400):
        burst = sender.next(step * 0.002)
        if burst is None:
            continue
        assert sum(len(part) for part in burst.parts) == burst.size <= 65_507
        if burst.size > 100:  # control datagrams are smaller
            assert burst.segments <= 64
            assert burst.size == burst.segments * sender.segment
            symbols += burst.segments
    assert symbols == geometry.symbols
