"""The live view of the records, over the bus in memory."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from shoal_bus import codec
from shoal_bus.api import Store, Write
from shoal_bus.errors import Unavailable
from shoal_bus.fakes import MemoryBus
from shoal_model.records import Cluster, Global, Kind, Network, Node, Record, Template, compact, record_key
from shoal_model.resolve import effective
from shoal_service.records import RecordsView

MACS = [f"52:54:00:77:00:{n:02x}" for n in range(256)]


def node(number: int, mac: int | None = None, **more: object) -> Node:
    return Node.model_validate({"mac": MACS[mac or number], "address": f"10.77.0.{number}", **more})


def put(kind: Kind, name: str, record: Record) -> Write:
    return Write(record_key(kind, name), codec.pack(compact(record)))


def head(revision: int = 0) -> Write:
    return Write("head", codec.pack({"revision": revision}))


NETWORK = put(Kind.NETWORK, "boot", Network.model_validate({"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}))


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
async def store(bus: MemoryBus) -> Store:
    store = await bus.store("records")
    await store.commit([NETWORK, put(Kind.NODE, "n001", node(1)), put(Kind.NODE, "n002", node(2)), head()])
    return store


@pytest.fixture
async def view(bus: MemoryBus, store: Store) -> AsyncIterator[RecordsView]:
    async with RecordsView.open(bus) as view:
        yield view


async def test_it_is_loaded_when_it_opens(view: RecordsView) -> None:
    assert view.revision == 4
    assert set(view.snapshot.cluster.nodes) == {"n001", "n002"}
    assert view.node_by_mac(MACS[1]) == "n001"
    assert view.node_by_address("10.77.0.2") == "n002"
    assert view.node_by_mac(MACS[9]) is None
    assert effective(view.snapshot.cluster, "n001").network_name == "boot"


async def test_it_is_a_cluster_like_any_other(view: RecordsView) -> None:
    document = compact(view.snapshot.cluster)
    assert Cluster.model_validate(document).nodes == view.snapshot.cluster.nodes
    assert set(document) == {"networks", "nodes"}


async def test_an_empty_bucket_is_an_empty_view(bus: MemoryBus) -> None:
    async with RecordsView.open(bus) as view:
        assert view.revision == 0
        assert compact(view.snapshot.cluster) == {}


async def test_changes_come_in(view: RecordsView, store: Store) -> None:
    changed: list[tuple[Kind, str]] = []
    view.on_change(lambda kind, name: changed.append((kind, name)))
    revision = await store.commit(
        [put(Kind.NODE, "n003", node(3)), Write("node.n001", None), put(Kind.TEMPLATE, "t", Template()), head(4)]
    )
    await view.wait_for(revision)
    assert set(view.snapshot.cluster.nodes) == {"n002", "n003"}
    assert view.node_by_mac(MACS[1]) is None
    assert view.node_by_address("10.77.0.1") is None
    assert view.node_by_mac(MACS[3]) == "n003"
    assert changed == [(Kind.NODE, "n003"), (Kind.NODE, "n001"), (Kind.TEMPLATE, "t")]


async def test_a_batch_becomes_visible_as_one(view: RecordsView, store: Store) -> None:
    seen: list[int] = []
    view.on_change(lambda _kind, _name: seen.append(len(view.snapshot.cluster.nodes)))
    revision = await store.commit([*(put(Kind.NODE, f"m{n}", node(n)) for n in range(10, 20)), head(4)])
    await view.wait_for(revision)
    assert seen == [12] * 10


async def test_half_a_batch_stays_invisible_however_late_its_head_comes(view: RecordsView, store: Store) -> None:
    half = await store.commit([put(Kind.NODE, "n003", node(3)), Write("node.n001", None)])
    with pytest.raises(Unavailable):
        await view.wait_for(half, timeout=0.2)
    assert set(view.snapshot.cluster.nodes) == {"n001", "n002"}
    assert view.node_by_mac(MACS[3]) is None
    await view.wait_for(await store.commit([put(Kind.NODE, "n004", node(4)), head(4)]))
    assert set(view.snapshot.cluster.nodes) == {"n002", "n003", "n004"}


async def test_what_stands_behind_the_head_is_not_loaded_before_its_own_comes(bus: MemoryBus, store: Store) -> None:
    await store.put("node.n003", codec.pack(compact(node(3))))
    async with RecordsView.open(bus) as view:
        assert (view.revision, set(view.snapshot.cluster.nodes)) == (4, {"n001", "n002"})
        await view.wait_for(await store.commit([head(4)]))
        assert set(view.snapshot.cluster.nodes) == {"n001", "n002", "n003"}


async def test_records_whose_head_is_missing_are_loaded_once_it_comes(
    bus: MemoryBus, caplog: pytest.LogCaptureFixture
) -> None:
    store = await bus.store("records")
    await store.commit([NETWORK])

    async def complete() -> None:
        while "records.unfinished revision=1" not in caplog.text:  # noqa: ASYNC110 - nothing tells us when it does
            await asyncio.sleep(0)
        await store.commit([head()])

    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            completing = tasks.create_task(complete())
            async with RecordsView.open(bus) as view:
                completing.cancel()
                assert (view.revision, set(view.snapshot.cluster.networks)) == (2, {"boot"})


async def test_an_interface_moves_from_node_to_node(view: RecordsView, store: Store) -> None:
    """A replaced machine: the new owner's entry may come before the old one's."""
    nic = {"mac": MACS[50], "network": "boot", "address": "10.77.0.50"}
    await view.wait_for(await store.commit([put(Kind.NODE, "n001", node(1, nics=[nic])), head(4)]))
    assert view.node_by_mac(MACS[50]) == view.node_by_address("10.77.0.50") == "n001"
    for order in (1, -1):
        writes = [put(Kind.NODE, "n002", node(2, nics=[nic])), put(Kind.NODE, "n001", node(1))][::order]
        await view.wait_for(await store.commit([*writes, head(5)]))
        assert view.node_by_mac(MACS[50]) == view.node_by_address("10.77.0.50") == "n002"
        writes = [put(Kind.NODE, "n001", node(1, nics=[nic])), put(Kind.NODE, "n002", node(2))][::order]
        await view.wait_for(await store.commit([*writes, head(6)]))
        assert view.node_by_mac(MACS[50]) == "n001"
    await view.wait_for(await store.commit([put(Kind.NODE, "n001", node(1, mac=60)), head(7)]))
    assert (view.node_by_mac(MACS[60]), view.node_by_mac(MACS[1]), view.node_by_mac(MACS[50])) == ("n001", None, None)


async def test_the_global_template_is_followed(view: RecordsView, store: Store) -> None:
    settings = Global.model_validate({"image": "compute"})
    await view.wait_for(await store.commit([put(Kind.GLOBAL, "default", settings), head(4)]))
    assert view.snapshot.cluster.global_.image == "compute"
    assert effective(view.snapshot.cluster, "n001").image == "compute"
    await view.wait_for(await store.commit([Write("global.default", None), head(5)]))
    assert view.snapshot.cluster.global_ == Global()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("node.n001", b"\xc1"),
        ("node.n001", codec.pack({"mac": "nonsense", "address": "10.77.0.1"})),
        ("node.n001", codec.pack({"mac": MACS[1], "address": "10.77.0.1", "field-of-the-future": 1})),
        ("node.n001", codec.pack({})),
        ("gadget.x", codec.pack({})),
        ("node.N001", codec.pack({"mac": MACS[1], "address": "10.77.0.1"})),
        ("node", b""),
    ],
)
async def test_what_cannot_be_read_is_told_and_passed_over(
    view: RecordsView, store: Store, key: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = view.snapshot.cluster.nodes["n001"]
    with caplog.at_level(logging.WARNING):
        await store.put(key, value)
        await view.wait_for(await store.commit([put(Kind.NODE, "n003", node(3)), head(4)]))
    assert f"records.unreadable key={key} " in caplog.text
    assert view.snapshot.cluster.nodes["n001"] == before
    assert set(view.snapshot.cluster.nodes) == {"n001", "n002", "n003"}


async def test_claims_are_no_records(view: RecordsView, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    await view.wait_for(await store.commit([Write("claim.mac.525400770003", b"x"), head(4)]))
    assert "unreadable" not in caplog.text


async def test_waiting_ends(view: RecordsView) -> None:
    await view.wait_for(view.revision)
    with pytest.raises(Unavailable, match="revision 4, and 99 did not come"):
        await view.wait_for(99, timeout=0.01)


async def test_a_callback_that_fails_ends_the_view(bus: MemoryBus, store: Store) -> None:
    def fail(_kind: Kind, _name: str) -> None:
        raise RuntimeError("broken callback")

    async def use() -> None:
        async with RecordsView.open(bus) as view:
            view.on_change(fail)
            await store.commit([put(Kind.NODE, "n003", node(3)), head(4)])
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await use()
    assert caught.group_contains(RuntimeError, match="broken callback")


async def test_a_change_costs_the_same_however_many_records_there_are(bus: MemoryBus, store: Store) -> None:
    """Live everywhere in under a second at 10,000 nodes: nothing is built anew for a change."""
    async with RecordsView.open(bus) as view:
        snapshot, nodes = view.snapshot, view.snapshot.cluster.nodes
        await view.wait_for(await store.commit([put(Kind.NODE, "n003", node(3)), head(4)]))
        assert view.snapshot is snapshot
        assert view.snapshot.cluster.nodes is nodes
        assert "n003" in nodes
