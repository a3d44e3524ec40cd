"""What the demo leaves behind."""

import yaml

from lab.demo_cluster import CLUSTER, NODES
from lab.demo_report import Options, Report, options_of, stage_table, stages
from shoal_model.records import Cluster
from shoal_model.resolve import effective

BOOT = {
    "node": "n001",
    "boot": "b1",
    "verdict": "n001 is up",
    "events": [
        {"stage": "dhcp.offer", "at": "2026-11-20T12:00:00Z", "status": "ok"},
        {"stage": "dhcp.ack", "at": "2026-11-20T12:00:00.5Z", "status": "ok"},
        {"stage": "dhcp.offer", "at": "2026-11-20T12:00:04Z", "status": "ok"},
        {"stage": "systemd.running", "at": "2026-11-20T12:01:00Z", "status": "ok"},
        {"stage": "systemd.start", "at": "2026-11-20T12:01:00.25Z", "status": "ok"},
    ],
}


def test_each_stage_once_and_running_last() -> None:
    assert [(told["stage"], told["seconds"]) for told in stages(BOOT)] == [
        ("dhcp.offer", 0.0),
        ("dhcp.ack", 0.5),
        ("systemd.start", 60.25),
        ("systemd.running", 60.0),
    ]


def test_the_table_has_a_column_for_each_node_and_a_dash_where_a_stage_was_not() -> None:
    other = {**BOOT, "events": BOOT["events"][:1]}
    assert stage_table({"n001": BOOT, "n002": other}) == [
        "STAGE                n001      n002",
        "dhcp.offer            0.0       0.0",
        "dhcp.ack              0.5         -",
        "systemd.start        60.2         -",
        "systemd.running      60.0         -",
    ]


def test_the_report_names_stages_image_and_options() -> None:
    options = Options("g" * 64, {"/etc/hostname": "a" * 64})
    report = Report({"n001": BOOT}, {"n001": options}, [{"session": 1}])
    states = [{"node": "n001", "state": "up", "heartbeat": {"image": "i" * 64, "generation": "g" * 64}}]
    told = report.data(states)
    assert told["sessions"] == [{"session": 1}]
    assert told["nodes"]["n001"]["image"] == "i" * 64
    assert told["nodes"]["n001"]["stages"][-1]["stage"] == "systemd.running"
    assert told["nodes"]["n001"]["options"] == {
        "generation": "g" * 64,
        "applied": "g" * 64,
        "files": {"/etc/hostname": "a" * 64},
    }


def test_of_two_files_with_one_path_the_last_counts() -> None:
    files = [
        {"path": "/a", "kind": "file", "sha256": "1"},
        {"path": "/d", "kind": "directory"},
        {"path": "/a", "kind": "file", "sha256": "2"},
    ]
    assert options_of({"generation": "g", "files": files}).files == {"/a": "2"}


def test_the_demos_cluster_is_valid_and_its_nodes_are_what_is_expected() -> None:
    cluster = Cluster.model_validate(yaml.safe_load(CLUSTER))
    assert set(cluster.nodes) == set(NODES)
    for name, expected in NODES.items():
        node = effective(cluster, name)
        addresses = [node.node.address, *(nic.address for nic in node.node.nics)]
        assert node.name == expected.name
        assert node.node.mac == expected.mac
        assert [f"{address}/24" for address in addresses] == list(expected.addresses)
        assert [nic.mac for nic in node.node.nics] == ([expected.second_mac] if expected.second_mac else [])
