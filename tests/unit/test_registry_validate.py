"""Whole-configuration checks: each table row is a change to a valid cluster, and the one problem that it makes."""

from typing import Any

import pytest

from shoal_bus.errors import Invalid
from shoal_model.records import Kind
from shoal_registry import document
from shoal_registry.problems import Problem, refuse, shown, suggestion
from shoal_registry.validate import problems


def base() -> dict[str, Any]:
    return {
        "networks": {
            "boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "gateway": "10.77.0.1", "boot": True},
            "ipmi": {"cidr": "10.78.0.0/24", "head": "10.78.0.1", "gateway": "10.78.0.254"},
        },
        "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
        "boot_configs": {"serial": {"image": "compute", "parameters": "console=ttyS0"}},
        "properties": {"rack": {}, "tier": {"values": ["gold", "iron"]}},
        "rootfs": {"site": {}},
        "templates": {"compute": {"image": "compute", "boot": {"config": "serial"}, "properties": {"tier": "iron"}}},
        "nodes": {
            "n001": {
                "mac": "52:54:00:77:00:11",
                "address": "10.77.0.11",
                "template": "compute",
                "nics": [{"mac": "52:54:00:77:01:11", "network": "ipmi", "address": "10.78.0.11"}],
            },
            "n002": {"mac": "52:54:00:77:00:12", "address": "10.77.0.12", "name": "login", "rootfs": ["site"]},
        },
        "global": {"image": "compute", "properties": {"rack": "r1"}},
    }


def edited(where: str, value: object) -> dict[str, Any]:
    """The base with one dotted path set, or removed where `value` is None."""
    whole = base()
    *parts, last = where.split(".")
    holder: Any = whole
    for part in parts:
        holder = holder[int(part)] if isinstance(holder, list) else holder.setdefault(part, {})
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return whole


def found(whole: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in problems(document.parse(whole))]


def test_the_base_is_valid() -> None:
    assert found(base()) == []


CASES = [
    ("nodes.n001.template", "compte", "nodes.n001.template: there is no template 'compte'; did you mean 'compute'?"),
    ("nodes.n001.image", "x", "nodes.n001.image: there is no image 'x'; known: compute"),
    ("global.image", "compte", "global.image: there is no image 'compte'; did you mean 'compute'?"),
    ("boot_configs.serial.image", "z", "boot_configs.serial.image: there is no image 'z'; known: compute"),
    (
        "templates.compute.boot.config",
        "seral",
        "templates.compute.boot.config: there is no boot config 'seral'; did you",
    ),
    ("nodes.n002.rootfs", ["site", "sight"], "nodes.n002.rootfs.1: there is no Root FS customization 'sight'"),
    ("nodes.n002.rootfs", ["site", "site"], "nodes.n002.rootfs.1: 'site' is named twice"),
    (
        "nodes.n002.properties",
        {"rak": "1"},
        "nodes.n002.properties.rak: there is no property 'rak'; did you mean 'rack'?",
    ),
    (
        "templates.compute.properties.tier",
        "god",
        "templates.compute.properties.tier: 'god' is no value of property tier",
    ),
    ("nodes.n002.network", "ipmy", "nodes.n002.network: there is no network 'ipmy'; did you mean 'ipmi'?"),
    ("nodes.n001.nics.0.network", "x", "nodes.n001.nics.0.network: there is no network 'x'; known: boot, ipmi"),
    ("nodes.n002.mac", "52-54-00-77-00-11", "nodes.n002.mac: 52:54:00:77:00:11 is taken by nodes.n001.mac"),
    ("nodes.n002.mac", "525400770111", "nodes.n002.mac: 52:54:00:77:01:11 is taken by nodes.n001.nics.0.mac"),
    ("nodes.n002.address", "10.77.0.11", "nodes.n002.address: 10.77.0.11 is taken by nodes.n001.address"),
    ("nodes.n002.address", "10.77.0.1", "nodes.n002.address: 10.77.0.1 is taken by networks.boot.head"),
    (
        "nodes.n001.nics.0.address",
        "10.78.0.254",
        "nodes.n001.nics.0.address: 10.78.0.254 is taken by networks.ipmi.gate",
    ),
    (
        "nodes.n002.address",
        "10.77.1.12",
        "nodes.n002.address: 10.77.1.12 is no host address of 10.77.0.0/24 (network boot)",
    ),
    ("nodes.n002.address", "10.77.0.0", "nodes.n002.address: 10.77.0.0 is no host address"),
    ("nodes.n002.address", "10.77.0.255", "nodes.n002.address: 10.77.0.255 is no host address"),
    (
        "nodes.n001.nics.0.address",
        "10.77.0.13",
        "nodes.n001.nics.0.address: 10.77.0.13 is no host address of 10.78.0.0/24",
    ),
    ("nodes.n002.name", "n001", "nodes.n002.name: n001 is taken by nodes.n001"),
    ("networks.ipmi.boot", True, "networks.ipmi.boot: boot is the boot network already"),
    ("networks.boot.boot", False, "networks: none of them is the boot network"),
    (
        "networks.x",
        {"cidr": "10.77.0.128/25"},
        "networks.x.cidr: 10.77.0.128/25 overlaps with 10.77.0.0/24 of network boot",
    ),
    ("images.compute.chroot", "big", "images.compute.chroot: there is no chroot 'big'; leave `chroot` out"),
]


@pytest.mark.parametrize(("where", "value", "problem"), CASES, ids=[f"{case[0]}={case[1]}" for case in CASES])
def test_one_wrong_value_is_one_problem_that_names_it(where: str, value: object, problem: str) -> None:
    got = found(edited(where, value))
    assert len(got) == 1
    assert got[0].startswith(problem)


def test_a_wide_network_overlaps_with_every_one_inside_it() -> None:
    whole = base()
    whole["networks"] |= {"all": {"cidr": "10.0.0.0/8"}, "far": {"cidr": "10.200.0.0/24"}}
    got = found(whole)
    assert [line.partition(":")[0] for line in got] == ["networks.boot.cidr", "networks.ipmi.cidr", "networks.far.cidr"]
    assert all("overlaps with 10.0.0.0/8 of network all" in line for line in got)


def test_a_point_to_point_network_has_no_edges() -> None:
    whole = base()
    whole["networks"]["link"] = {"cidr": "10.79.0.0/31"}
    whole["nodes"]["n001"]["nics"].append({"mac": "52:54:00:77:02:11", "network": "link", "address": "10.79.0.0"})
    assert found(whole) == []


def test_a_cluster_without_nodes_needs_no_boot_network() -> None:
    assert found({"networks": {"ipmi": {"cidr": "10.78.0.0/24"}}}) == []


def test_what_is_still_used_says_by_what_instead_of_complaining_at_each_user() -> None:
    whole = edited("images.compute", None)
    got = [str(problem) for problem in problems(document.parse(whole), [(Kind.IMAGE, "compute")])]
    users = "global.image, templates.compute.image, boot_configs.serial.image"
    advice = "change them first, or in the same step"
    assert got == [f"images.compute: cannot be removed: used by {users}; {advice}"]


def test_many_users_are_counted() -> None:
    whole = edited("templates.compute", None)
    for number in range(3, 20):
        mac, address = f"52:54:00:77:00:{number + 40}", f"10.77.0.{number + 40}"
        whole["nodes"][f"n0{number:02}"] = {"mac": mac, "address": address, "template": "compute"}
    (problem,) = problems(document.parse(whole), [(Kind.TEMPLATE, "compute")])
    assert problem.what.endswith("nodes.n006.template and 13 more")


def test_problems_are_told_one_a_line_and_counted_beyond_twenty() -> None:
    error = refuse([Problem(f"nodes.n{number}", "is wrong", "mend it") for number in range(25)])
    assert isinstance(error, Invalid)
    lines = str(error).splitlines()
    assert lines[0] == "nodes.n0: is wrong; mend it"
    assert lines[20:] == ["… and 5 more"]


def test_suggestions_and_values_stay_short() -> None:
    assert suggestion("x" * 1000, ["a"]) == "known: a"
    assert suggestion("a", []) == ""
    assert suggestion("zzz", [f"name{number}" for number in range(20)]).endswith("…")
    assert len(shown("x" * 1000)) == 80
