"""Two machines are switched on at once and boot by different ways into different systems; a third is a stranger.

One head, three QEMU machines, booted once for all tests of this module.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.boots import BootLab, Running
from lab.node import Machine, Nic
from shoal_model.subjects import Stage

pytestmark = pytest.mark.boot

NODES = ("n001", "n002")
HOST_NAMES = {"n001": "red", "n002": "blue"}
STRANGER = "52:54:00:77:00:99"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3gAF0YvH0F9dqJ0m3Zs2gkP1V0e3J8v4zJtY5Q2xXx operator@lab"
CLUSTER = f"""\
properties:
  rack: {{values: [r1, r2]}}
rootfs:
  order: {{description: a script for everybody}}
  red: {{description: for one node}}
  blue: {{description: for the other one}}
nodes:
  n001:
    name: red
    mac: "52:54:00:77:00:11"
    address: 10.77.0.11
    template: compute
    rootfs: [order, red]
    authorized_keys: ["{KEY}"]
    properties: {{rack: r1}}
  n002:
    name: blue
    mac: "52:54:00:77:00:12"
    address: 10.77.0.12
    template: compute
    boot: {{loader: pxelinux, tmp_size: 100m}}
    rootfs: [order, blue]
    properties: {{rack: r2}}
    nics:
      - {{mac: "52:54:00:78:00:12", network: storage, address: 10.78.0.12}}
"""
FIRST = """\
#!/bin/sh
read -r one </proc/1/comm
echo "first: process 1 is $one, host name $(hostname)" >>/etc/lab-order
"""
SECOND = """\
#!/bin/bash
. /etc/shoal/options.d/network
. /etc/shoal/options.d/properties
echo "second: {colour} $SHOAL_HOST_NAME $SHOAL_PROPERTY_RACK" >>/etc/lab-order
sysctl -qw kernel.domainname={colour}.lab
"""


@dataclass
class Pair:
    """What the tests look at: the machines, and what the head said before they were switched on and afterwards."""

    lab: BootLab
    running: Running
    previews: dict[str, Any]
    stories: dict[str, Any]
    sessions: list[Any]


@pytest.fixture(scope="module")
def pair(boots: BootLab) -> Iterator[Pair]:
    plant(boots.head.state / "root-fs")
    boots.apply(CLUSTER)
    for name in ("order", "red", "blue"):
        boots.head.shoal("rootfs", "commit", name)
    previews = {name: boots.json("preview", name) for name in NODES}
    before = {session["session"] for session in boots.json("session", "list")}
    with boots.on(*machines(boots)) as running:
        for name in NODES:
            running.until(Stage.SYSTEMD_RUNNING, node=name)
        stories = {name: boots.story(name) for name in NODES}
        sessions = [session for session in boots.json("session", "list") if session["session"] not in before]
        yield Pair(boots, running, previews, stories, sessions)


def plant(trees: Path) -> None:
    """Write the Root FS customizations as an operator would from the shell."""
    scripts = {"order/lib/shoal/init.d/10-first": FIRST}
    for colour in ("red", "blue"):
        scripts[f"{colour}/lib/shoal/init.d/20-second"] = SECOND.format(colour=colour)
    for path, text in scripts.items():
        script = trees / path
        script.parent.mkdir(parents=True)
        script.write_text(text)
        script.chmod(0o755)
    secret = trees / "red/etc/lab/secret"
    secret.parent.mkdir(parents=True)
    secret.write_bytes(b"\x00red\xff" * 20_000)  # more than fits into a message
    secret.chmod(0o600)
    (trees / "red/etc/lab/link").symlink_to("secret")


def machines(boots: BootLab) -> list[Machine]:
    """Both nodes, and a machine that nobody registered."""
    return [
        Machine("n001", (Nic(boots.tap(), "52:54:00:77:00:11"),)),
        Machine(
            "n002",
            (Nic(boots.tap(), "52:54:00:77:00:12"), Nic(boots.tap(boots.storage), "52:54:00:78:00:12", "e1000")),
        ),
        Machine("stranger", (Nic(boots.tap(), STRANGER),), memory=128),
    ]


@pytest.mark.parametrize("node", NODES)
def test_every_stage_is_told_in_its_order_and_went_well(pair: Pair, node: str) -> None:
    story = pair.stories[node]
    first: dict[str, int] = {}
    for place, event in enumerate(story["events"]):
        first.setdefault(event["stage"], place)
    assert [event for event in story["events"] if event["status"] != "ok"] == []
    assert list(first) == list(Stage)
    assert story["arrived"]
    assert {event["boot"] for event in story["events"] if "boot" in event} == {story["boot"]}


def test_one_came_by_ipxe_over_http_and_one_by_pxelinux_over_tftp(pair: Pair) -> None:
    doors = {
        (node, event["stage"]): event["details"]["door"]
        for node in NODES
        for event in pair.stories[node]["events"]
        if event["stage"].startswith("loader.")
    }
    stages = (Stage.LOADER_CONFIG, Stage.LOADER_KERNEL, Stage.LOADER_INITRD)
    assert doors == {("n001", stage): "http" for stage in stages} | {("n002", stage): "tftp" for stage in stages}


def test_one_multicast_session_brought_the_image_to_both(pair: Pair) -> None:
    assert len(pair.sessions) == 1
    [session] = pair.sessions
    assert (session["receivers"], session["complete"]) == (2, 2)
    assert session["size"] <= session["sent"] <= 1.3 * session["size"]
    for node in NODES:
        ways = [
            event["details"]["method"] for event in pair.stories[node]["events"] if event["stage"] == "image.source"
        ]
        assert ways == ["multicast"]


@pytest.mark.parametrize("node", NODES)
def test_systemd_runs_and_no_unit_failed(pair: Pair, node: str) -> None:
    assert pair.lab.says(node, "systemctl", "is-system-running").strip() == "running"
    assert pair.lab.says(node, "readlink", "/proc/1/exe").strip() == "/usr/lib/systemd/systemd"
    [status] = pair.lab.json("node", "status", node)
    assert status["state"] == "up"


@pytest.mark.parametrize("node", NODES)
def test_host_name_and_addresses_are_its_own(pair: Pair, node: str) -> None:
    assert pair.lab.says(node, "hostname").strip() == HOST_NAMES[node]
    assert pair.lab.says(node, "hostname", "--fqdn").strip() == f"{HOST_NAMES[node]}.lab.shoal"
    told = pair.lab.json_on(node, "ip", "-j", "-4", "address")
    addresses = {
        link["ifname"]: [f"{address['local']}/{address['prefixlen']}" for address in link["addr_info"]] for link in told
    }
    expected = {"lo": ["127.0.0.1/8"], "boot0": [f"10.77.0.{NODES.index(node) + 11}/24"]}
    if node == "n002":
        [second] = addresses.keys() - expected.keys()
        expected[second] = ["10.78.0.12/24"]
    assert addresses == expected


@pytest.mark.parametrize("node", NODES)
def test_scripts_ran_before_systemd_in_order_and_saw_the_options(pair: Pair, node: str) -> None:
    name, rack = HOST_NAMES[node], f"r{NODES.index(node) + 1}"
    first, second = pair.lab.says(node, "cat", "/etc/lab-order").splitlines()
    assert first.startswith("first: process 1 is ")
    assert "systemd" not in first
    assert first.endswith(f", host name {name}")
    assert second == f"second: {name} {name} {rack}"
    assert pair.lab.says(node, "sysctl", "-n", "kernel.domainname").strip() == f"{name}.lab"


@pytest.mark.parametrize("node", NODES)
def test_the_node_has_the_bytes_that_the_preview_showed(pair: Pair, node: str) -> None:
    preview = pair.previews[node]
    files = {entry["path"]: entry for entry in preview["files"] if entry["kind"] == "file"}
    assert {"/etc/hostname", "/etc/hosts", "/lib/shoal/init.d/10-first"} <= files.keys()
    assert ("/root/.ssh/authorized_keys" in files) == ("/etc/lab/secret" in files) == (node == "n001")
    sums = pair.lab.says(node, "sha256sum", *files).splitlines()
    assert {line[66:]: line[:64] for line in sums} == {path: entry["sha256"] for path, entry in files.items()}
    modes = pair.lab.says(node, "stat", "-c", "%n %a %u %g", *files).splitlines()
    assert modes == [f"{path} {e['mode']:o} {e['uid']} {e['gid']}" for path, e in files.items()]
    links = {entry["path"]: entry["target"] for entry in preview["files"] if entry["kind"] == "symlink"}
    assert links == ({"/etc/lab/link": "secret"} if node == "n001" else {})
    assert all(pair.lab.says(node, "readlink", path).strip() == target for path, target in links.items())


@pytest.mark.parametrize("node", NODES)
def test_the_options_stand_in_options_d_and_their_generation_is_told(pair: Pair, node: str) -> None:
    topics = pair.lab.says(node, "ls", "/etc/shoal/options.d").split()
    assert topics == ["boot", "network", "properties", "rootfs"]
    script = (
        "for topic in /etc/shoal/options.d/*; do . $topic; done; "
        "echo $SHOAL_NODE $SHOAL_HOST_NAME $SHOAL_NIC0_ADDRESS $SHOAL_NICS $SHOAL_ROOTFS $SHOAL_TMP_SIZE"
    )
    expected = {"n001": "n001 red 10.77.0.11 0 order red 25%", "n002": "n002 blue 10.77.0.12 1 order blue 100m"}
    assert pair.lab.says(node, "bash", "-c", script).strip() == expected[node]
    [status] = pair.lab.json("node", "status", node)
    assert status["heartbeat"]["generation"] == pair.previews[node]["generation"]


@pytest.mark.parametrize("node", NODES)
def test_the_root_is_the_union(pair: Pair, node: str) -> None:
    mounts = {
        mount["target"]: mount
        for mount in pair.lab.json_on(node, "findmnt", "--json", "--list", "--output", "TARGET,FSTYPE,SOURCE,OPTIONS")[
            "filesystems"
        ]
    }
    root = mounts["/"]
    assert root["fstype"] == "overlay"
    options = dict(part.partition("=")[::2] for part in root["options"].split(","))
    assert options["lowerdir"] == "/union/image:/union/chroot"
    assert options["upperdir"] == "/union/rw/upper"
    assert mounts["/union/image"]["fstype"] == "squashfs"
    assert mounts["/union/image"]["source"].startswith("/dev/loop")
    assert "ro" in mounts["/union/image"]["options"].split(",")
    assert mounts["/union/rw"]["fstype"] == "tmpfs"
    assert mounts["/tmp"]["fstype"] == "tmpfs"
    assert ("size=102400k" in mounts["/tmp"]["options"]) == (node == "n002")
    assert pair.lab.says(node, "ls", "-A", "/union/chroot") == ""


@pytest.mark.parametrize("node", NODES)
def test_the_logs_of_both_stages_are_on_the_node_and_on_the_head(pair: Pair, node: str) -> None:
    boot = pair.stories[node]["boot"]
    on_head = (pair.lab.head.state / "logs" / node / f"{boot}.log").read_text()
    for stage, last in (("stage1", "union.mounted ok"), ("stage2", "systemd.start ok")):
        lines = pair.lab.says(node, "cat", f"/var/log/shoal/{stage}.log").splitlines()
        assert last in lines[-1]
        assert [line for line in lines if line not in on_head] == []
    assert f"{node} is up" in pair.lab.head.shoal("boot", "why", node)


def test_a_machine_that_nobody_registered_gets_nothing_and_is_listed(pair: Pair) -> None:
    found = {machine["mac"]: machine for machine in pair.lab.json("discovered", "list")}
    assert STRANGER in found
    assert not {"52:54:00:77:00:11", "52:54:00:77:00:12"} & found.keys()
    pair.running["stranger"].wait_for("No bootable device", 60)
    assert "Next server" not in pair.running["stranger"].text()
