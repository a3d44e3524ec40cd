"""States of nodes: tables of what was heard, and what it makes."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shoal_fleet.census import Census
from shoal_fleet.presence import Limits, Standing, Verdict
from shoal_fleet.service import Fleet
from shoal_model.messages import BootEvent, Heartbeat, NodeState, NodeStatus, Status
from shoal_model.subjects import Stage

T0 = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
S = Stage
BOOTING, FAILED, UP, LOST, UNKNOWN = (
    NodeState.BOOTING, NodeState.FAILED, NodeState.UP, NodeState.LOST, NodeState.UNKNOWN,
)  # fmt: skip


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def event(stage: Stage, seconds: float, boot: str | None = "b1", status: Status = Status.OK) -> BootEvent:
    return BootEvent(node="n001", stage=stage, at=at(seconds), boot=boot, status=status)


def beat(seconds: float, boot: str = "b1") -> Heartbeat:
    return Heartbeat(node="n001", boot=boot, at=at(seconds), uptime=1, load=0, memory_total=2, memory_available=1)


def census() -> Census:
    return Census(Limits(lost=timedelta(seconds=20), stalled=timedelta(minutes=15)))


def hear(one: Census, *heard: BootEvent | Heartbeat) -> None:
    for item in heard:
        if isinstance(item, Heartbeat):
            one.heartbeat(item, item.at)
        else:
            one.event(item)


CASES: list[tuple[str, list[BootEvent | Heartbeat], float, NodeState]] = [
    ("an address", [event(S.DHCP_OFFER, 0, None)], 1, BOOTING),
    ("a boot under way", [event(S.LOADER_CONFIG, 0), event(S.STAGE1_START, 9)], 20, BOOTING),
    ("a failure", [event(S.LOADER_CONFIG, 0), event(S.IMAGE_VERIFIED, 9, status=Status.FAILED)], 20, FAILED),
    ("a fallback", [event(S.IMAGE_SOURCE, 0, status=Status.FAILED), event(S.IMAGE_RECEIVED, 9)], 20, BOOTING),
    ("silence", [event(S.LOADER_CONFIG, 0)], 901, FAILED),
    ("systemd", [event(S.SYSTEMD_RUNNING, 0)], 5, UP),
    ("systemd, degraded", [event(S.SYSTEMD_RUNNING, 0, status=Status.DEGRADED)], 5, UP),
    ("systemd that failed", [event(S.SYSTEMD_RUNNING, 0, status=Status.FAILED)], 5, FAILED),
    ("systemd, then silence", [event(S.SYSTEMD_RUNNING, 0)], 21, LOST),
    ("heartbeats", [event(S.SYSTEMD_RUNNING, 0), beat(100)], 119, UP),
    ("heartbeats that stopped", [event(S.SYSTEMD_RUNNING, 0), beat(100)], 121, LOST),
    ("heartbeats alone", [beat(0)], 5, UP),
    ("heartbeats after a failure", [event(S.STAGE2_SCRIPTS, 0, status=Status.FAILED), beat(30)], 31, UP),
    ("a reboot", [event(S.SYSTEMD_RUNNING, 0), beat(100), event(S.LOADER_CONFIG, 110, "b2")], 111, BOOTING),
    ("an address of a running node", [event(S.LOADER_CONFIG, 0), beat(90), event(S.DHCP_OFFER, 95, None)], 96, UP),
    ("an address and no heartbeat", [event(S.LOADER_CONFIG, 0), beat(90), event(S.DHCP_OFFER, 95, None)], 120, BOOTING),
    ("a boot fleet knows nothing of", [event(S.LOADER_CONFIG, 0), beat(200, "b9")], 201, UP),
    ("an old boot's last beat", [event(S.LOADER_CONFIG, 100, "b2"), beat(99, "b1")], 101, BOOTING),
    ("a clock years ahead", [event(S.LOADER_CONFIG, 0), event(S.STAGE1_START, 1e9)], 20, BOOTING),
]


@pytest.mark.parametrize(("heard", "now", "state"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_was_heard_makes_a_state(heard: list[BootEvent | Heartbeat], now: float, state: NodeState) -> None:
    one = census()
    hear(one, *heard)
    assert [status.state for status in one.status(["n001"], at(now))] == [state]
    one.tick(at(now))
    assert [status.state for status in one.status(["n001"], at(now))] == [state]


def test_a_node_nothing_was_heard_of_is_unknown() -> None:
    assert list(census().status(["n001"], T0)) == [NodeStatus(node="n001", state=UNKNOWN)]


def test_only_transitions_are_told_and_since_is_when_they_happened() -> None:
    one = census()

    def tick(seconds: float) -> list[tuple[NodeState, float]]:
        changed = one.tick(at(seconds)).values()
        return [(standing.verdict.state, (standing.since - T0).total_seconds()) for standing in changed]

    hear(one, event(S.LOADER_CONFIG, 0))
    assert tick(1) == [(BOOTING, 1)]
    hear(one, event(S.STAGE1_START, 2))
    assert tick(2) == []
    hear(one, event(S.SYSTEMD_RUNNING, 30), beat(31))
    assert tick(31) == [(UP, 31)]
    for seconds in range(32, 60):
        hear(one, beat(seconds))
        assert tick(seconds) == []
    assert tick(79) == []
    assert tick(80) == [(LOST, 80)]
    assert tick(200) == []
    hear(one, beat(201))
    assert tick(201) == [(UP, 201)]
    hear(one, event(S.LOADER_CONFIG, 210, "b2"))
    assert tick(211) == [(BOOTING, 211)]
    assert tick(1500) == [(FAILED, 1500)]
    assert one.counts()[FAILED] == 1


def test_after_a_restart_a_node_that_was_up_has_its_time_to_beat_again() -> None:
    one = census()
    one.restore("n001", Standing(Verdict(UP, "b1"), at(-5000)), T0)
    hear(one, event(S.SYSTEMD_RUNNING, -5000))
    assert one.tick(at(10)) == {}
    (status,) = one.status(["n001"], at(10))
    assert (status.state, status.since) == (UP, at(-5000))
    (standing,) = one.tick(at(21)).values()
    assert (standing.verdict.state, standing.since) == (LOST, at(21))


def test_after_a_restart_a_node_that_was_lost_stays_lost() -> None:
    one = census()
    one.restore("n001", Standing(Verdict(LOST, "b1"), at(-50)), T0)
    hear(one, event(S.LOADER_CONFIG, -200))
    assert one.tick(at(1)) == {}
    assert [status.state for status in one.status(["n001"], at(1))] == [LOST]


def test_a_node_that_is_no_more_is_forgotten() -> None:
    one = census()
    hear(one, event(S.LOADER_CONFIG, 0), beat(1))
    one.tick(at(1))
    one.forget("n001")
    assert one.tick(at(2)) == {}
    assert sum(one.counts().values()) == 0


@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_a_clock_that_is_set_makes_nobody_lost_and_keeps_nobody_up(step: float) -> None:
    wall, steady = [0.0], [100.0]
    view = SimpleNamespace(snapshot=SimpleNamespace(cluster=SimpleNamespace(nodes={"n001"})))
    nothing = cast("Any", None)
    fleet = Fleet(
        nothing, nothing, cast("Any", view), census(), nothing, now=lambda: at(wall[0]), steady=lambda: steady[0]
    )

    def state_after(seconds: float, by: float = 0.0) -> NodeState:
        wall[0] += seconds + by
        steady[0] += seconds
        fleet.census.tick(now := fleet.clock())
        return next(fleet.census.status(["n001"], now)).state

    await fleet.heartbeat("node.n001.heartbeat", beat(0))
    assert state_after(5) is UP
    assert state_after(5, by=step) is UP
    assert state_after(5) is UP
    assert state_after(10) is LOST
