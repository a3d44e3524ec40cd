"""What a node has, after its levels are laid over one another."""

from typing import Any

import pytest

from lab.keys import public_key
from shoal_model.records import BootStyle, Cluster, Loader
from shoal_model.resolve import Unresolvable, boot_network, effective, levels

KEY = public_key("ada")
BASE: dict[str, Any] = {
    "networks": {
        "ipmi": {"cidr": "10.78.0.0/24"},
        "boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True},
    },
    "boot_configs": {
        "serial": {"parameters": "console=ttyS0", "loader": "ipxe"},
        "quiet": {"parameters": "quiet", "image": "other"},
    },
    "templates": {
        "compute": {
            "image": "compute",
            "boot": {"config": "serial", "tmp_size": "1g"},
            "rootfs": ["site", "gpu"],
            "properties": {"rack": "r1", "tier": "gold"},
        }
    },
    "nodes": {
        "n001": {"mac": "525400770011", "address": "10.77.0.11", "template": "compute",
                 "rootfs": [], "properties": {"rack": "r2"}},
        "n002": {"mac": "525400770012", "address": "10.78.0.12", "network": "ipmi", "name": "login"},
    },
    "global": {
        "image": "fallback",
        "boot": {"config": "quiet", "root_size": "4g", "tmp_size": "2g"},
        "authorized_keys": [KEY],
        "properties": {"site": "north", "tier": "iron"},
    },
}  # fmt: skip


def cluster(**changes: Any) -> Cluster:  # noqa: ANN401 - a document
    return Cluster.model_validate({**BASE, **changes})


def test_the_nearest_level_wins_and_says_so() -> None:
    got = effective(cluster(), "n001")
    assert (got.image, got.sources["image"]) == ("compute", "template compute")
    assert (got.tmp_size, got.sources["boot.tmp_size"]) == ("1g", "template compute")
    assert (got.root_size, got.sources["boot.root_size"]) == ("4g", "global")
    assert (got.style, got.sources["boot.style"]) == (BootStyle.RORAM, "default")
    assert (got.authorized_keys, got.sources["authorized_keys"]) == ((KEY,), "global")


def test_a_boot_config_lies_right_below_the_level_that_names_it() -> None:
    got = effective(cluster(), "n001")
    assert (got.parameters, got.sources["boot.parameters"]) == ("console=ttyS0", "boot config serial")
    assert (got.loader, got.sources["boot.loader"]) == (Loader.IPXE, "boot config serial")
    assert [name for name, _ in levels(cluster(), "n001")] == [
        "host n001", "template compute", "boot config serial", "global", "boot config quiet",
    ]  # fmt: skip
    other = effective(cluster(), "n002")
    assert (other.image, other.sources["image"]) == ("fallback", "global")
    assert (other.parameters, other.sources["boot.parameters"]) == ("quiet", "boot config quiet")


def test_lists_replace_and_properties_merge() -> None:
    got = effective(cluster(), "n001")
    assert (got.rootfs, got.sources["rootfs"]) == ((), "host n001")
    assert dict(got.properties) == {"rack": "r2", "tier": "gold", "site": "north"}
    assert (got.sources["properties.rack"], got.sources["properties.tier"]) == ("host n001", "template compute")
    assert got.sources["properties.site"] == "global"


def test_names_and_networks() -> None:
    one, two = effective(cluster(), "n001"), effective(cluster(), "n002")
    assert (one.name, one.network_name, two.name, two.network_name) == ("n001", "boot", "login", "ipmi")
    assert boot_network(cluster())[0] == "boot"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Unresolvable, match="there is no node 'n009'"):
        effective(cluster(), "n009")
    with pytest.raises(Unresolvable, match="there is no node 'n009'"):
        levels(cluster(), "n009")
    with pytest.raises(Unresolvable, match="node n001 uses template 'compute', which does not exist"):
        effective(cluster(templates={}), "n001")
    with pytest.raises(Unresolvable, match="template compute uses boot config 'serial', which does not exist"):
        effective(cluster(boot_configs={}), "n001")
    with pytest.raises(Unresolvable, match="the cluster has no boot network"):
        effective(cluster(networks={}), "n001")
    with pytest.raises(Unresolvable, match="node n002 is in network 'ipmi', which does not exist"):
        effective(cluster(networks={}), "n002")
