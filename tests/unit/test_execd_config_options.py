"""Records in, options out: every file of a node against golden text, and what decides about the generation."""

import hashlib
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab.keys import public_key
from shoal_execd_config.delivery import content_of, fitted
from shoal_execd_config.nics import interface_names
from shoal_execd_config.options import node_options
from shoal_model.messages import NodeOptions
from shoal_model.records import Cluster, Nic, RootfsRelease, StoredFile
from shoal_model.resolve import Snapshot, Unresolvable

GOLDEN = Path(__file__).parent / "execd_config_golden"
KEY = public_key("admin@head")
CONFIGURATION: dict[str, Any] = {
    "networks": {
        "boot": {
            "cidr": "10.77.0.0/24",
            "head": "10.77.0.1",
            "boot": True,
            "gateway": "10.77.0.254",
            "nameservers": ["10.77.0.2", "10.77.0.3"],
            "domain": "cluster.example",
        },
        "storage": {"cidr": "10.78.0.0/16"},
    },
    "properties": {"rack": {}, "gpu-type": {}},
    "rootfs": {"base": {}, "site": {}},
    "templates": {
        "compute": {
            "image": "compute",
            "boot": {"parameters": "console=ttyS0", "tmp_size": "2g"},
            "rootfs": ["base", "site"],
            "authorized_keys": [KEY],
            "properties": {"rack": "r1"},
        }
    },
    "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
    "nodes": {
        "n001": {
            "mac": "52:54:00:77:00:11",
            "address": "10.77.0.11",
            "template": "compute",
            "name": "login",
            "nics": [{"mac": "52:54:00:78:00:11", "network": "storage", "address": "10.78.0.11"}],
            "properties": {"gpu-type": 'it\'s $HOME "quoted"; `id`'},
        },
        "n002": {"mac": "52:54:00:77:00:12", "address": "10.77.0.12"},
    },
}


def snapshot(change: Callable[[dict[str, Any]], None] = lambda data: None, *, committed: bool = True) -> Snapshot:
    data = Cluster.model_validate(CONFIGURATION).model_dump(by_alias=True)
    change(data)
    releases = {
        name: RootfsRelease(
            archive=StoredFile(sha256=hashlib.sha256(name.encode()).hexdigest(), size=10240),
            files=3,
            committed=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for name in ("base", "site")
    }
    return Snapshot(Cluster.model_validate(data), {}, releases if committed else {})


def texts(options: NodeOptions) -> dict[str, str]:
    return {file.path: (file.content or b"").decode() for file in options.files}


def test_every_file_is_the_golden_one() -> None:
    got = texts(node_options(snapshot(), "n001"))
    expected = {
        f"/{path.relative_to(GOLDEN / 'n001')}": path.read_text()
        for path in (GOLDEN / "n001").rglob("*")
        if path.is_file()
    }
    assert got == expected


def test_a_node_with_the_least_gets_what_it_needs_and_no_more() -> None:
    def bare(data: dict[str, Any]) -> None:
        data["networks"]["boot"] |= {"nameservers": [], "gateway": None, "domain": None}

    options = node_options(snapshot(bare), "n002")
    assert list(texts(options)) == [
        "/etc/hostname",
        "/etc/hosts",
        "/etc/machine-id",
        "/etc/network/interfaces.d/shoal",
        "/etc/systemd/network/70-shoal-boot0.link",
        "/etc/shoal/options.d/boot",
        "/etc/shoal/options.d/network",
        "/etc/shoal/options.d/properties",
        "/etc/shoal/options.d/rootfs",
    ]
    assert [action.verb for action in options.actions] == ["hostname", "ssh-host-keys"]
    assert "route" not in texts(options)["/etc/network/interfaces.d/shoal"]
    assert options.archives == []


def test_actions_archives_and_sources() -> None:
    options = node_options(snapshot(), "n001")
    assert [(action.verb, *action.arguments) for action in options.actions] == [
        ("hostname", "login"),
        ("directory", "/root/.ssh", "0700", "0", "0"),
        ("ssh-host-keys",),
        ("network-links",),
    ]
    assert [archive.name for archive in options.archives] == ["base", "site"]
    assert options.sources == ["http://10.77.0.1:8082", "http://10.77.0.1:8081"]


def test_with_tls_contents_come_over_tls_and_the_generation_stays() -> None:
    plain, secure = node_options(snapshot(), "n001"), node_options(snapshot(), "n001", "https")
    assert secure.sources == ["https://10.77.0.1:8082", "https://10.77.0.1:8081"]
    assert secure.generation == plain.generation


def test_modes_are_what_each_file_needs() -> None:
    modes = {file.path: file.mode for file in node_options(snapshot(), "n001").files}
    assert modes["/root/.ssh/authorized_keys"] == 0o600
    assert modes["/etc/machine-id"] == 0o444
    assert modes["/etc/hostname"] == 0o644


def test_option_files_give_bash_back_what_the_records_say() -> None:
    text = texts(node_options(snapshot(), "n001"))["/etc/shoal/options.d/properties"]
    script = f'{text}\nprintf %s "$SHOAL_PROPERTY_GPU_TYPE"'
    said = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True)
    assert said.stdout == CONFIGURATION["nodes"]["n001"]["properties"]["gpu-type"]
    assert said.stderr == ""


def test_the_generation_follows_content_and_nothing_else() -> None:
    before = node_options(snapshot(), "n001").generation
    assert node_options(snapshot(), "n001").generation == before

    def elsewhere(data: dict[str, Any]) -> None:
        data["nodes"]["n002"]["address"] = "10.77.0.99"
        data["images"]["compute"]["description"] = "changed"

    def renamed(data: dict[str, Any]) -> None:
        data["nodes"]["n001"]["name"] = "other"

    assert node_options(snapshot(elsewhere), "n001").generation == before
    assert node_options(snapshot(renamed), "n001").generation != before


def test_the_machine_id_is_the_nodes_and_survives_a_new_name() -> None:
    def renamed(data: dict[str, Any]) -> None:
        data["nodes"]["n001"]["name"] = "other"

    first, other = (texts(node_options(snapshot(), node))["/etc/machine-id"] for node in ("n001", "n002"))
    assert first != other
    assert len(first) == 33
    assert texts(node_options(snapshot(renamed), "n001"))["/etc/machine-id"] == first


def test_a_customization_without_content_is_named() -> None:
    with pytest.raises(Unresolvable, match=r"n001.*'base'.*committed"):
        node_options(snapshot(committed=False), "n001")


def test_a_network_that_is_missing_is_named() -> None:
    def without(data: dict[str, Any]) -> None:
        del data["networks"]["storage"]

    with pytest.raises(Unresolvable, match="'storage'"):
        node_options(snapshot(without), "n001")


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (["storage"], ("storage",)),
        (["storage", "storage"], ("storage", "storage-2")),
        (["boot0"], ("boot0-2",)),
        (["lo", "lo"], ("lo-2", "lo-3")),
        (["exactly-fifteen"], ("exactly-fifteen",)),
    ],
)
def test_interface_names(networks: list[str], expected: tuple[str, ...]) -> None:
    nics = [
        Nic(mac=f"52:54:00:00:00:{index:02x}", network=name, address="10.1.0.1") for index, name in enumerate(networks)
    ]
    assert interface_names(nics) == expected


def test_long_network_names_are_cut_and_still_told_apart() -> None:
    long = ["a-very-long-network-name-one", "a-very-long-network-name-two", "a-very-long-network-name-two"]
    nics = [Nic(mac=f"52:54:00:00:00:{index:02x}", network=name, address="10.1.0.1") for index, name in enumerate(long)]
    names = interface_names(nics)
    assert len(set(names)) == 3
    assert all(len(name) <= 15 for name in names)


def test_options_that_are_too_large_name_their_largest_contents_by_digest() -> None:
    keys = [public_key(f"key{number}", octets=1100) for number in range(60)]

    def many(data: dict[str, Any]) -> None:
        data["templates"]["compute"]["authorized_keys"] = keys

    options = node_options(snapshot(many), "n001")
    sent = fitted(options)
    left_out = [file for file in sent.files if file.content is None]
    assert [file.path for file in left_out] == ["/root/.ssh/authorized_keys"]
    content = content_of(options, left_out[0].sha256)
    assert content is not None
    assert hashlib.sha256(content).hexdigest() == left_out[0].sha256
    assert len(content) == left_out[0].size
    assert sent.generation == options.generation
    assert fitted(node_options(snapshot(), "n001")) == node_options(snapshot(), "n001")
    assert content_of(options, "0" * 64) is None
