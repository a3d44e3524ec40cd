"""Operations and documents to updates, differences, steps and writes."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_bus.api import Write
from shoal_bus.codec import unpack
from shoal_bus.errors import Invalid
from shoal_model.messages import Action, FieldChange, Operation
from shoal_model.records import ImageManifest, ImageRelease, Kind, Node
from shoal_model.resolve import Snapshot
from shoal_registry import change, claims, document, inventory
from shoal_registry.inventory import Updates

BASE: dict[str, Any] = {
    "networks": {"boot": {"cidr": "10.77.0.0/16", "head": "10.77.0.1", "boot": True}},
    "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
    "templates": {"compute": {"image": "compute"}},
    "nodes": {"n001": {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", "template": "compute"}},
}


def snapshot(whole: Mapping[str, Any] = BASE) -> Snapshot:
    return Snapshot(cluster=document.parse(whole), image_releases={}, rootfs_releases={})


def release() -> ImageRelease:
    stored = {"sha256": "a" * 64, "size": 10}
    manifest = ImageManifest.model_validate(
        {
            "image": "compute", "flavor": "bookworm", "version": "1.0", "identity": "b" * 64, "content": "c" * 64,
            "modules": [], "kernel_version": "6.1", "squashfs": stored, "kernel": stored, "initrd": stored,
            "blocks": ["d" * 64],
        }
    )  # fmt: skip
    return ImageRelease.model_validate({"manifest": manifest, "built": "2026-11-20T05:00:00Z"})


def put(kind: Kind, name: str, /, **record: object) -> Operation:
    return Operation(action=Action.PUT, kind=kind, name=name, record=record)


def delete(kind: Kind, name: str) -> Operation:
    return Operation(action=Action.DELETE, kind=kind, name=name)


def updates(state: Snapshot, *operations: Operation) -> Updates:
    return change.settle(state, change.updates_of_operations(state, operations))


def node(number: int, **fields: object) -> Operation:
    mac, address = f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", f"10.77.{number >> 8}.{number & 255}"
    return put(Kind.NODE, f"n{number:05}", mac=mac, address=address, **fields)


SENSELESS = [
    (
        put(Kind.IMAGE_RELEASE, "compute"),
        "image-release.compute: records of kind image-release are not changed by hand",
    ),
    (put(Kind.GLOBAL, "other"), "global.other: there is one global template; call it 'default'"),
    (
        Operation(action=Action.PUT, kind=Kind.NODE, name="n001"),
        "nodes.n001: to put needs a record, to delete takes none",
    ),
    (Operation(action=Action.DELETE, kind=Kind.NODE, name="n001", record={}), "nodes.n001: to put needs a record"),
    (delete(Kind.NODE, "n01"), "nodes.n01: there is no such record to delete; did you mean 'n001'?"),
    (put(Kind.NODE, "n002", mac="x"), "nodes.n002.mac: 'x' is not a hardware address"),
]


@pytest.mark.parametrize(("operation", "message"), SENSELESS, ids=[case[1][:30] for case in SENSELESS])
def test_operations_that_make_no_sense_are_refused(operation: Operation, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        change.updates_of_operations(snapshot(), [operation])
    assert str(caught.value).startswith(message)


def test_two_operations_on_one_record_are_refused() -> None:
    with pytest.raises(Invalid, match=r"nodes\.n001: the change names it twice"):
        updates(snapshot(), delete(Kind.NODE, "n001"), delete(Kind.NODE, "n001"))


def test_what_is_so_already_is_no_change() -> None:
    state = snapshot()
    assert updates(state, put(Kind.TEMPLATE, "compute", image="compute"), put(Kind.GLOBAL, "default")) == {}
    assert updates(state, delete(Kind.GLOBAL, "default")) == {}


def test_what_this_change_has_done_already_is_passed_over() -> None:
    state = snapshot()
    done = {(Kind.NODE, "gone")}
    assert change.updates_of_operations(state, [delete(Kind.NODE, "gone")], done) == {}


def test_a_document_replaces_what_it_names_and_leaves_the_rest() -> None:
    state = snapshot({**BASE, "global": {"image": "compute"}})
    wanted = {"nodes": {"n002": {"mac": "52:54:00:77:00:12", "address": "10.77.0.12"}}}
    got = change.settle(state, change.updates_of_document(state, document.parse(wanted), wanted, prune=False))
    assert list(got) == [(Kind.NODE, "n002")]


def test_a_document_that_prunes_removes_the_rest_and_releases_with_their_images() -> None:
    state = snapshot({**BASE, "global": {"image": "compute"}})
    state = inventory.replace(state, {(Kind.IMAGE_RELEASE, "compute"): release()})
    wanted = {"networks": BASE["networks"], "templates": {"compute": {}}}
    got = change.settle(state, change.updates_of_document(state, document.parse(wanted), wanted, prune=True))
    told = {(item.kind, item.name): item.what for item in change.differences(state, got)}
    assert told == {
        (Kind.NODE, "n001"): "removed",
        (Kind.TEMPLATE, "compute"): "changed",
        (Kind.GLOBAL, "default"): "changed",
        (Kind.IMAGE, "compute"): "removed",
        (Kind.IMAGE_RELEASE, "compute"): "removed",
    }
    assert change.check(state, got).image_releases == {}


def test_a_difference_is_told_by_dotted_field() -> None:
    state = snapshot()
    operation = put(
        Kind.NODE, "n001", mac="525400770011", address="10.77.0.12", boot={"parameters": "quiet", "tmp_size": "1g"}
    )
    (got,) = change.differences(state, updates(state, operation))
    assert got.what == "changed"
    assert got.fields == [
        FieldChange(field="address", before="10.77.0.11", after="10.77.0.12"),
        FieldChange(field="template", before="compute", after=None),
        FieldChange(field="boot.parameters", before=None, after="quiet"),
        FieldChange(field="boot.tmp_size", before=None, after="1g"),
    ]


def test_a_check_tells_what_a_removed_record_is_used_by() -> None:
    state = snapshot()
    with pytest.raises(Invalid, match=r"images\.compute: cannot be removed: used by templates\.compute\.image"):
        change.check(state, updates(state, delete(Kind.IMAGE, "compute")))


# --- writes -----------------------------------------------------------------------------------------------


class Bucket:
    """What the bucket would do with the writes of a step: every expectation must hold."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.revisions: dict[str, int] = {}
        self.revision = 0

    def commit(self, writes: list[Write]) -> None:
        assert len({write.key for write in writes}) == len(writes) <= change.MAX_WRITES - 1
        for write in writes:
            assert write.expected == self.revisions.get(write.key, 0), write.key
        for write in writes:
            self.revision += 1
            self.revisions[write.key] = self.revision
            if write.value is None:
                assert self.values.pop(write.key, None) is not None, f"{write.key} is deleted but was not there"
            else:
                self.values[write.key] = write.value

    def carry_out(self, state: Snapshot, wanted: Updates, most: int = change.MAX_WRITES) -> Snapshot:
        for step in change.steps(state, wanted, most):
            self.commit(change.writes(state, step, self.revisions))
            state = inventory.replace(state, step)
            self.check(state)
        return state

    def check(self, state: Snapshot) -> None:
        """Claims are those of the nodes, each held by its own."""
        held = {key: unpack(value)["node"] for key, value in self.values.items() if key.startswith("claim.")}
        assert held == {claim: name for name, one in state.cluster.nodes.items() for claim in claims.of(name, one)}


def test_a_node_is_written_with_its_claims_and_takes_them_along() -> None:
    bucket, empty = Bucket(), inventory.EMPTY
    state = bucket.carry_out(empty, change.updates_of_document(empty, document.parse(BASE), BASE, prune=False))
    assert {"claim.mac.525400770011", "claim.ip.10-77-0-11", "claim.name.n001"} <= bucket.values.keys()
    state = bucket.carry_out(state, updates(state, delete(Kind.NODE, "n001")))
    assert not [key for key in bucket.values if key.startswith("claim.")]
    again = updates(state, put(Kind.NODE, "n009", mac="525400770011", address="10.77.0.11"))
    bucket.carry_out(state, again)  # claims deleted before are claimed at the revisions of their tombstones
    assert unpack(bucket.values["claim.mac.525400770011"]) == {"node": "n009"}


def test_two_nodes_swap_their_addresses_in_one_batch() -> None:
    bucket, state = Bucket(), inventory.EMPTY
    whole = {**BASE, "nodes": {}}
    state = bucket.carry_out(state, change.updates_of_document(state, document.parse(whole), whole, prune=False))
    state = bucket.carry_out(state, updates(state, node(1000), node(1001)))
    first, second = node(1000).record or {}, node(1001).record or {}
    swapped = [
        put(Kind.NODE, "n01000", **{**first, "address": second["address"]}),
        put(Kind.NODE, "n01001", **{**second, "address": first["address"]}),
    ]
    wanted = updates(state, *swapped)
    change.check(state, wanted)
    bucket.carry_out(state, wanted)


def test_a_claim_that_stays_is_not_written_again() -> None:
    bucket, state = Bucket(), inventory.EMPTY
    state = bucket.carry_out(state, change.updates_of_document(state, document.parse(BASE), BASE, prune=False))
    again = put(Kind.NODE, "n001", mac="525400770011", address="10.77.0.11", description="rack 3")
    (step,) = change.steps(state, updates(state, again))
    assert [write.key for write in change.writes(state, step, bucket.revisions)] == ["node.n001"]


pool = st.integers(1, 6)
wanted_nodes = st.dictionaries(pool, st.tuples(pool, pool, st.none() | pool), max_size=6)


@given(st.lists(wanted_nodes, min_size=1, max_size=5))
def test_whatever_the_order_of_changes_expectations_hold_and_claims_are_exact(history: list[dict[int, Any]]) -> None:
    bucket = Bucket()
    whole = {**BASE, "nodes": {}}
    state = bucket.carry_out(
        inventory.EMPTY, change.updates_of_document(inventory.EMPTY, document.parse(whole), whole, prune=False)
    )
    for nodes in history:
        operations = []
        for name in range(1, 7):
            if name in nodes:
                mac, address, host = nodes[name]
                fields = {"mac": f"52540000000{mac}", "address": f"10.77.1.{address}"}
                operations.append(put(Kind.NODE, f"n{name}", **fields, **({"name": f"h{host}"} if host else {})))
            elif f"n{name}" in state.cluster.nodes:
                operations.append(delete(Kind.NODE, f"n{name}"))
        wanted = updates(state, *operations)
        try:
            change.check(state, wanted)
        except Invalid:
            continue
        state = bucket.carry_out(state, wanted)


# --- steps ------------------------------------------------------------------------------------------------


def test_a_large_change_is_cut_into_valid_batches_dependencies_first() -> None:
    state = inventory.EMPTY
    whole = {**BASE, "nodes": {f"n{number:05}": node(number).record for number in range(300, 1300)}}
    wanted = change.updates_of_document(state, document.parse(whole), whole, prune=False)
    cut = change.steps(state, wanted)
    assert len(cut) == 5  # 1000 nodes of 4 writes, 899 a batch
    assert [key[0] for key in cut[0]][:4] == [Kind.NETWORK, Kind.IMAGE, Kind.TEMPLATE, Kind.NODE]
    Bucket().carry_out(state, change.settle(state, wanted))


def test_a_large_removal_frees_nodes_first_and_what_they_used_last() -> None:
    empty = inventory.EMPTY
    whole = {**BASE, "nodes": {f"n{number:05}": {**(node(number).record or {}), "template": "compute"}
                               for number in range(300, 1300)}}  # fmt: skip
    state = snapshot(whole)
    cut = change.steps(state, change.settle(state, change.updates_of_document(state, empty.cluster, (), prune=True)))
    assert len(cut) > 1
    assert [key[0] for key in cut[-1]][-3:] == [Kind.TEMPLATE, Kind.IMAGE, Kind.NETWORK]


def test_a_change_that_cannot_be_cut_is_refused_with_what_stands_in_the_way() -> None:
    whole = {**BASE, "nodes": {f"n{number:05}": node(number).record for number in range(300, 320)}}
    state = snapshot(whole)
    moved = [put(Kind.NETWORK, "boot", cidr="10.99.0.0/16", head="10.99.0.1", boot=True)]
    for name, one in state.cluster.nodes.items():
        moved.append(put(Kind.NODE, name, mac=one.mac, address=one.address.replace("10.77", "10.99")))
    wanted = updates(state, *moved)
    change.check(state, wanted)
    assert len(change.steps(state, wanted)) == 1
    with pytest.raises(Invalid, match=r"too large for one batch \(30 writes\).*not valid by itself") as caught:
        change.steps(state, wanted, most=30)
    assert "make it in several changes" in str(caught.value)


def test_a_record_with_more_claims_than_a_batch_holds_is_refused() -> None:
    nics = [{"mac": f"5254000000{n:02x}", "network": "boot", "address": f"10.77.2.{n}"} for n in range(1, 30)]
    wanted = updates(snapshot(), node(1, nics=nics))
    with pytest.raises(Invalid, match=r"nodes\.n00001: one record may hold 28 claims at most"):
        change.steps(snapshot(), wanted, most=30)


def test_claims_are_of_every_interface() -> None:
    one = Node.model_validate(
        {"mac": "525400770011", "address": "10.0.0.1", "name": "login",
         "nics": [{"mac": "80:00:00:48:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1", "network": "ib",
                   "address": "10.1.0.1"}]}
    )  # fmt: skip
    assert claims.of("n001", one) == [
        "claim.mac.525400770011",
        "claim.mac.80000048fe80000000000000f4521403007bcba1",
        "claim.ip.10-0-0-1",
        "claim.ip.10-1-0-1",
        "claim.name.login",
    ]
