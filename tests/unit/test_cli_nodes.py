"""Nodes as lists show them, who speaks for them, and nodes that nobody knows."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from lab.cluster import FakeCluster
from shoal_cli import nodesets
from shoal_identity.keys import Key
from shoal_model import messages as m
from shoal_model.records import Kind
from shoal_model.subjects import Service


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


KEYS = [Key.new().public for _ in range(2)]
AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def bound() -> FakeCluster:
    """n001 was let in by its token, n002 by an operator and is revoked, nobody speaks for n003."""
    cluster = FakeCluster({Kind.NODE: {f"n00{number}": node(number) for number in (1, 2, 3)}})
    first = m.Party(key=KEYS[0], address="10.77.0.1", boot="0123456789abcdef", mac="52:54:00:77:00:01", at=AT)
    second = m.Party(key=KEYS[1], address="10.77.0.2", at=AT)
    bindings = [m.Binding(node="n002", party=second, revoked=True), m.Binding(node="n001", party=first)]

    def answer(request: m.BindingsRequest) -> m.BindingsReply:
        return m.BindingsReply(bindings=[each for each in bindings if not request.nodes or each.node in request.nodes])

    cluster.answer(Service.AUTH, "bindings", m.BindingsRequest, answer)
    return cluster


def test_who_speaks_for_nodes(bound: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert bound.shoal("node", "keys") == 0
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["NODE", "KEY", "ADDRESS", "MAC", "BOOT", "SINCE", "REVOKED"]
    assert [(row[0], row[1], row[2], row[3], row[4], row[-1]) for row in rows] == [
        ("n001", KEYS[0][:12], "10.77.0.1", "52:54:00:77:00:01", "0123456789abcdef", "no"),
        ("n002", KEYS[1][:12], "10.77.0.2", "-", "-", "yes"),
    ]
    assert bound.shoal("node", "keys", "n[002-003]", "-o", "json") == 0
    [shown] = json.loads(capsys.readouterr().out)
    assert (shown["node"], shown["party"]["key"], shown["revoked"]) == ("n002", KEYS[1], True)
    assert bound.shoal("node", "keys", "n009") == 1
    assert "not registered: n009" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("revoked", "connections", "told"),
    [
        (
            ["n001", "n002"],
            3,
            "revoked: n[001-002]; 3 connections cut\nnobody spoke for: n003; no boot of them is expected\n",
        ),
        (["n001", "n002", "n003"], 1, "revoked: n[001-003]; 1 connection cut\n"),
        ([], 0, "nobody spoke for: n[001-003]; no boot of them is expected\n"),
    ],
)
def test_revoking(
    bound: FakeCluster, capsys: pytest.CaptureFixture[str], revoked: list[str], connections: int, told: str
) -> None:
    reply = m.RevokeReply(nodes=revoked, connections=connections)
    bound.answer(Service.AUTH, "revoke", m.RevokeRequest, reply)
    assert bound.shoal("node", "revoke", "n[001-003]") == 0
    assert capsys.readouterr().out == told
    assert bound.asked(m.RevokeRequest) == [m.RevokeRequest(nodes=["n001", "n002", "n003"], author="tester@here")]
