"""Nodes as lists show them, and nodes that nobody knows."""

import json
from typing import Any

import pytest

from lab.cluster import FakeCluster
from shoal_cli import nodesets
from shoal_model.records import Kind


def node(number: int, **settings: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    return {"mac": f"52:54:00:77:00:{number:02x}", "address": f"10.77.0.{number}", **settings}


def test_the_list_shows_the_image_that_a_node_gets(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = {
        "n001": node(1, image="own", template="compute"),
        "n002": node(2, template="compute"),
        "n003": node(3, boot={"config": "rescue"}),
        "n004": node(4),
        "n005": node(5, template="gone"),
    }
    cluster = FakeCluster(
        {
            Kind.NODE: nodes,
            Kind.TEMPLATE: {"compute": {"image": "big"}},
            Kind.BOOT_CONFIG: {"rescue": {"image": "small"}},
            Kind.GLOBAL: {"default": {"image": "common"}},
        }
    )
    assert cluster.shoal("node", "list") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(row[0], row[5]) for row in rows] == [
        ("n001", "own"),
        ("n002", "big"),
        ("n003", "small"),
        ("n004", "common"),
        ("n005", "-"),
    ]
    assert cluster.shoal("node", "list", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == nodes


@pytest.mark.parametrize(
    ("strangers", "hint"),
    [
        (["n1"], "did you mean n001?"),
        (["logni"], "did you mean login?"),
        (["n003"], "`shoal node list`"),
        (["zebra"], "`shoal node list`"),
        (["n1", "logni"], "`shoal node list`"),
    ],
)
def test_a_name_that_is_almost_right_is_told(strangers: list[str], hint: str) -> None:
    assert hint in nodesets.hint(strangers, ["n001", "n002", "login"])
