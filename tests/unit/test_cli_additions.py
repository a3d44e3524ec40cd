"""Several new nodes out of one line of `shoal node add`."""

import pytest

from lab.cluster import FakeCluster
from shoal_model import messages as m
from shoal_model.records import Kind
from shoal_model.subjects import Service

MACS = "mac=52:54:00:77:00:13,52:54:00:77:00:14"


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster({Kind.NODE: {"n001": {"mac": "52:54:00:77:00:11", "address": "10.77.0.11"}}})
    cluster.answer(Service.REGISTRY, "change", m.ChangeRequest, m.ChangeReply(changes=[], revision=8))
    return cluster


def test_addresses_count_up_and_each_node_has_its_mac_in_one_change(cluster: FakeCluster) -> None:
    assert cluster.shoal("node", "add", "n[003-004]", MACS, "address=10.77.0.255", "boot.loader=ipxe") == 0
    [request] = cluster.asked(m.ChangeRequest)
    assert [(o.name, o.record) for o in request.operations] == [
        ("n003", {"mac": "52:54:00:77:00:13", "address": "10.77.0.255", "boot": {"loader": "ipxe"}}),
        ("n004", {"mac": "52:54:00:77:00:14", "address": "10.77.1.0", "boot": {"loader": "ipxe"}}),
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["n[003-005]", MACS, "address=10.77.0.13"], "3 nodes and 2 in mac="),
        (["n[003-004]", MACS], "2 nodes need address"),
        (["n[003-004]", "template=compute"], "2 nodes need mac and address"),
        (["n[003-004]", MACS, "address=10.77"], "'10.77' is not an IPv4 address"),
        (["n[003-004]", MACS, "address=255.255.255.255"], "is not an IPv4 address"),
        (["n[001,003]", MACS, "address=10.77.0.13"], "node n001 exists already"),
        (["n[003", MACS], "not a set of nodes"),
    ],
)
def test_what_does_not_suffice_is_refused_with_what_would(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert cluster.shoal("node", "add", *arguments) == 2
    assert complaint in capsys.readouterr().err
    assert not cluster.asked(m.ChangeRequest)
