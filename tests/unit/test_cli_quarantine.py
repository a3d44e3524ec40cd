"""Attempts that were not let in: how they are listed, and how an operator decides."""

import json
from datetime import UTC, datetime

import pytest

from lab.cluster import FakeCluster
from shoal_bus.api import Bus
from shoal_bus.errors import Conflict, NotFound
from shoal_identity.keys import Key
from shoal_model import messages as m
from shoal_model.records import Kind
from shoal_model.subjects import Service, event

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STRANGER, OWNER = Key.new().public, Key.new().public
WAITING = m.Quarantined(
    node="n001",
    attempt=m.Party(key=STRANGER, address="10.77.0.66", boot="0123456789abcdef", at=AT),
    bound=m.Party(key=OWNER, address="10.77.0.11", at=AT.replace(hour=9)),
    reason="the boot of n001 was not expected\x1b[2J",
    attempts=7,
    last=AT,
)
REJECTED = m.Quarantined(
    node="n002",
    attempt=m.Party(key=OWNER, address="10.77.0.12", at=AT),
    reason="its token was used before",
    state=m.QuarantineState.REJECTED,
    last=AT,
)


@pytest.fixture
def cluster() -> FakeCluster:
    nodes = {name: {"mac": f"52:54:00:77:00:1{n}"} for n, name in enumerate(("n001", "n002", "n003"))}
    cluster = FakeCluster({Kind.NODE: nodes})
    cluster.answer(Service.AUTH, "quarantine", m.Empty, m.QuarantineReply(entries=[WAITING, REJECTED]))
    return cluster


def columns(text: str) -> list[list[str]]:
    """The cells of a table, cut where its head begins a column."""
    head, *lines = text.splitlines()
    starts = [at for at, c in enumerate(head) if c != " " and (at == 0 or head[at - 2 : at] == "  ")]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    return [[line[begin:end].strip() for begin, end in spans] for line in (head, *lines)]


def test_what_waits_is_listed_with_both_parties(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal_cli.terminal.local", lambda at: at)
    assert cluster.shoal("quarantine", "list") == 0
    assert columns(capsys.readouterr().out) == [
        ["NODE", "STATE", "ADDRESS", "KEY", "SINCE", "ATTEMPTS", "BOUND", "REASON"],
        [
            "n001",
            "waiting",
            "10.77.0.66",
            STRANGER[:12],
            "2026-11-20 12:00:00",
            "7",
            "10.77.0.11 since 2026-11-20 09:00:00",
            "the boot of n001 was not expected\\x1b[2J",
        ],
        [
            "n002",
            "rejected",
            "10.77.0.12",
            OWNER[:12],
            "2026-11-20 12:00:00",
            "1",
            "-",
            "",
        ],
    ]


def test_the_list_for_scripts_has_whole_keys(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.shoal("quarantine", "list", "-o", "json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["attempt"]["key"], first["bound"]["key"], first["state"]) == (STRANGER, OWNER, "waiting")
    assert "bound" not in second


@pytest.mark.parametrize("key", ["", STRANGER[:5], STRANGER])
def test_an_attempt_is_admitted_in_the_place_of_another(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    admitted = WAITING.model_copy(update={"state": m.QuarantineState.ADMITTED})
    cluster.answer(Service.AUTH, "decide", m.DecideRequest, admitted)
    assert cluster.shoal("quarantine", "admit", "n001", *(["--key", key] if key else [])) == 0
    assert capsys.readouterr().out == (
        f"n001: admitted {STRANGER[:12]} from 10.77.0.66, in the place of {OWNER[:12]} from 10.77.0.11\n"
    )
    expected = m.DecideRequest(node="n001", key=key or STRANGER, admit=True, author="tester@here")
    assert cluster.asked(m.DecideRequest) == [expected]


def test_an_attempt_is_rejected(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.answer(Service.AUTH, "decide", m.DecideRequest, REJECTED)
    assert cluster.shoal("quarantine", "reject", "n002") == 0
    assert capsys.readouterr().out == f"n002: rejected {OWNER[:12]} from 10.77.0.12\n"
    [request] = cluster.asked(m.DecideRequest)
    assert not request.admit


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (NotFound("nobody waits to be n001"), "shoal: nobody waits to be n001"),
        (Conflict("two attempts wait: say which with --key"), "shoal: two attempts wait: say which with --key"),
    ],
)
def test_a_decision_that_cannot_be_taken_is_one_sentence(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], answer: NotFound | Conflict, told: str
) -> None:
    cluster.answer(Service.AUTH, "decide", m.DecideRequest, answer)
    assert cluster.shoal("quarantine", "admit", "n001") == 1
    assert capsys.readouterr().err.strip() == told


def test_the_latest_alarm_of_each_node_is_shown(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    async def alarm(bus: Bus) -> None:
        for minute, kind in ((1, m.AlarmKind.FORGED), (2, m.AlarmKind.WRONG_ADDRESS)):
            told = m.IdentityAlarm(
                node="n001", kind=kind, reason="stolen", at=AT.replace(minute=minute), attempt=WAITING.attempt
            )
            await bus.emit(event("identity", "n001", "alarm"), told)

    cluster.on_connect = alarm
    assert cluster.shoal("quarantine", "alarms", "-o", "json") == 0
    [shown] = json.loads(capsys.readouterr().out)
    assert (shown["node"], shown["kind"], shown["attempt"]["key"]) == ("n001", "wrong-address", STRANGER)
    assert cluster.shoal("quarantine", "alarms") == 0
    assert "10.77.0.66" in capsys.readouterr().out


def test_many_are_decided_at_once_and_those_that_do_not_wait_are_left_alone(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def decide(request: m.DecideRequest) -> m.Quarantined:
        if request.node == "n003":
            raise NotFound("nobody waits to be n003")
        return WAITING.model_copy(update={"node": request.node})

    cluster.answer(Service.AUTH, "decide", m.DecideRequest, decide)
    assert cluster.shoal("quarantine", "admit", "n[001-003]") == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["n001", "n002"]
    assert cluster.shoal("quarantine", "admit", "n[001-002]", "--key", "UD") == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["N001"], "'N001'"),
        (["n001", "--key", "u1"], "key: String should match pattern"),
        (["n001", "--key", "SUAAAAAA\x1b"], "key: String should match pattern"),
        ([], "Missing argument 'NODES'"),
    ],
)
def test_wrong_usage(cluster: FakeCluster, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert cluster.shoal("quarantine", "admit", *words) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "\x1b" not in err
    assert cluster.asked(m.DecideRequest) == []
