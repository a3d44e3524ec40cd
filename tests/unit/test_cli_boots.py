"""Boots that are expected, and what is made of a boot's events: timelines and watches."""

import asyncio
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from lab.cluster import FakeCluster
from shoal_bus.errors import Unavailable
from shoal_bus.fakes import MemoryBus
from shoal_cli import timeline, watching
from shoal_cli.commands import boot as boot_command
from shoal_identity.keys import Key
from shoal_model import messages as m
from shoal_model.messages import Boot, BootEvent
from shoal_model.records import Kind
from shoal_model.subjects import Service, Stage, boot_event

T0 = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def event(stage: Stage, at: float, **more: object) -> BootEvent:
    return BootEvent.model_validate({"node": "n1", "stage": stage, "at": T0 + timedelta(seconds=at), **more})


def boot(*events: BootEvent) -> Boot:
    return Boot(node="n1", boot="b1", events=list(events))


UP = boot(
    event(Stage.DHCP_OFFER, 0),
    event(Stage.LOADER_CONFIG, 2),
    event(Stage.IMAGE_PROGRESS, 10, details={"fraction": 0.1}),
    event(Stage.IMAGE_PROGRESS, 12, details={"fraction": 0.9, "received": 12_000_000}),
    event(Stage.SYSTEMD_RUNNING, 42.5),
)


def test_steps_have_durations_and_progress_is_one_of_them() -> None:
    steps = timeline.steps(UP)
    assert [(s.stage, s.since_start, s.took) for s in steps] == [
        (Stage.DHCP_OFFER, 0, 0),
        (Stage.LOADER_CONFIG, 2, 2),
        (Stage.IMAGE_PROGRESS, 12, 10),
        (Stage.SYSTEMD_RUNNING, 42.5, 30.5),
    ]
    assert steps[2].details == "90%, received 12.0 MB"


@pytest.mark.parametrize(
    ("story", "later", "arrived", "failed", "text"),
    [
        (UP, 60, True, False, "n1 is up: 42.5 s from dhcp.offer to systemd.running"),
        (boot(event(Stage.DHCP_OFFER, 0)), 10, False, False, "n1 is booting: dhcp.offer 10 s ago"),
        (
            boot(event(Stage.DHCP_OFFER, 0)),
            600,
            False,
            True,
            "n1 stopped after dhcp.offer, 10 min ago: the node was off",
        ),
        (boot(event(Stage.UNION_MOUNTED, 0)), 200, False, True, "stage2.start never came"),
        (
            boot(event(Stage.IMAGE_VERIFIED, 3, status="failed", reason="block 7:\x1b wrong hash")),
            5,
            False,
            True,
            "n1 failed at image.verified: block 7:\\x1b wrong hash",
        ),
        (
            boot(
                event(Stage.DHCP_OFFER, 0),
                event(Stage.IMAGE_SOURCE, 1, status="degraded", reason="no multicast"),
                event(Stage.SYSTEMD_RUNNING, 2),
            ),
            5,
            True,
            False,
            "not as planned: image.source: no multicast",
        ),
        (
            boot(
                event(Stage.IMAGE_VERIFIED, 3, status="failed", reason="block 7 is wrong"), event(Stage.IMAGE_SOURCE, 4)
            ),
            5,
            False,
            False,
            "n1 is booting: image.source 1 s ago; before that image.verified failed: block 7 is wrong",
        ),
        (
            boot(event(Stage.EXECD_OPTIONS, 3, status="failed", reason="none came"), event(Stage.SYSTEMD_RUNNING, 4)),
            5,
            True,
            False,
            "not as planned: execd.options: none came",
        ),
    ],
)
def test_verdicts(story: Boot, later: float, arrived: bool, failed: bool, text: str) -> None:
    verdict = timeline.verdict(story, T0 + timedelta(seconds=later))
    assert (verdict.arrived, verdict.failed) == (arrived, failed)
    assert text in verdict.text


def test_every_stage_has_a_verdict_when_it_is_the_last() -> None:
    for stage in list(Stage)[:-1]:
        assert timeline.verdict(boot(event(stage, 0)), T0 + timedelta(hours=1)).failed


def heard(*events: BootEvent, waited_for: tuple[str, ...] = ("n1",)) -> watching.Watch:
    """A watch that heard these, one each second from second 0 on."""
    watch = watching.Watch(waited_for)
    for second, one in enumerate(events):
        watch.hear(one, second)
    return watch


RUNNING = Stage.SYSTEMD_RUNNING


def test_a_watch_ends_when_every_node_arrived() -> None:
    watch = heard(event(Stage.DHCP_OFFER, 0), waited_for=("n1", "n2"))
    assert watch.settles(RUNNING) is None
    assert watch.missing(RUNNING) == ["n1", "n2"]
    watch.hear(event(RUNNING, 30), 1)
    assert watch.settles(RUNNING) is None
    watch.hear(event(RUNNING, 31, node="n2", status="degraded"), 2)
    assert watch.settles(RUNNING) == float("-inf")
    assert watch.missing(RUNNING) == []


FAILED = {"boot": "b1", "status": "failed", "reason": "block 7 is wrong"}


def test_a_failure_ends_it_only_if_nothing_newer_comes() -> None:
    watch = heard(event(Stage.IMAGE_PROGRESS, 20, boot="b1"), event(Stage.IMAGE_VERIFIED, 30, **FAILED))
    assert watch.settles(RUNNING) == 1 + watching.SETTLED
    assert watch.missing(RUNNING) == ["n1"]
    watch.hear(event(Stage.IMAGE_PROGRESS, 25, boot="b1"), 3)  # late, and no news
    assert watch.settles(RUNNING) == 1 + watching.SETTLED
    watch.hear(event(Stage.IMAGE_SOURCE, 31, boot="b1", status="degraded"), 4)  # the next source
    assert watch.settles(RUNNING) is None
    assert watch.nodes["n1"].latest.stage is Stage.IMAGE_SOURCE
    watch.hear(event(Stage.IMAGE_RECEIVED, 40, **FAILED), 5)
    assert watch.settles(RUNNING) == 5 + watching.SETTLED
    watch.hear(event(RUNNING, 90, boot="b1"), 6)
    assert watch.settles(RUNNING) == float("-inf")
    assert watch.missing(RUNNING) == []


@pytest.mark.parametrize(
    "late",
    [
        event(Stage.STAGE2_SCRIPTS, 29, boot="b1"),
        event(Stage.DHCP_ACK, 5),
        event(Stage.DHCP_ACK, 300),  # a lease renewed
        event(Stage.EXECD_OPTIONS, 40, boot="b1", status="failed", reason="too late to matter"),
    ],
)
def test_nothing_leads_back_from_where_a_boot_got(late: BootEvent) -> None:
    watch = heard(event(Stage.DHCP_OFFER, 0), event(RUNNING, 30, boot="b1"), late)
    assert watch.settles(RUNNING) == float("-inf")
    assert watch.missing(RUNNING) == []
    assert watch.nodes["n1"].latest.stage is (RUNNING if late.status == "ok" else late.stage)


def test_a_stage_of_a_slower_clock_is_no_step_back() -> None:
    watch = heard(event(Stage.LOADER_INITRD, 10.5, boot="b1"), event(Stage.STAGE1_START, 10.0, boot="b1"))
    assert watch.nodes["n1"].latest.stage is Stage.STAGE1_START


def test_systemd_that_failed_is_not_reached() -> None:
    watch = heard(event(Stage.SYSTEMD_START, 20, boot="b1"), event(RUNNING, 30, **FAILED))
    assert watch.settles(RUNNING) == 1 + watching.SETTLED
    assert watch.missing(RUNNING) == ["n1"]


async def follow(*events: BootEvent, timeout: float | None = 30, subject: str | None = None) -> list[str]:
    """`boot.follow` for node n1, with these events once it listens, on their own subjects or on this one."""
    bus = MemoryBus()
    emitting: list[asyncio.Task[None]] = []

    async def emit() -> None:
        for one in events:
            await bus.emit(subject or boot_event(one.node, one.stage), one)

    def began() -> None:
        emitting.append(asyncio.create_task(emit()))

    async with asyncio.timeout(20):
        missing = await boot_command.follow(bus, ["n1"], until=RUNNING, timeout=timeout, began=began)
    await asyncio.gather(*emitting)
    return missing


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_time_at_the_end_of_the_calendar_is_shown(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for at in (datetime.min, datetime.max):
            assert "n1" in watching.line(event(RUNNING, 0).model_copy(update={"at": at.replace(tzinfo=UTC)}))
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_what_another_node_says_of_a_node_is_not_believed() -> None:
    arrived = event(RUNNING, 30, boot="b1")
    assert await follow(arrived, timeout=0.2, subject=boot_event("n2", RUNNING)) == ["n1"]
    assert await follow(arrived) == []


async def test_following_goes_on_after_a_failure_and_ends_when_it_was_the_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = event(Stage.IMAGE_VERIFIED, 30, **FAILED)
    assert await follow(failed, event(RUNNING, 60, boot="b1"), event(Stage.STAGE2_SCRIPTS, 50, boot="b1")) == []
    assert await follow(failed, timeout=0.05) == ["n1"]
    monkeypatch.setattr(watching, "SETTLED", 0.05)
    assert await follow(failed, timeout=None) == ["n1"]


def test_of_no_nodes_all_are_there() -> None:
    assert watching.Watch().settles(RUNNING) == float("-inf")


def test_a_new_boot_begins_anew_and_the_loaders_second_dhcp_does_not() -> None:
    watch = watching.Watch()
    for told in (event(Stage.DHCP_OFFER, 0), event(Stage.DHCP_ACK, 1), event(Stage.DHCP_OFFER, 5)):
        watch.hear(told, 0)
    assert watch.nodes["n1"].started == T0
    watch.hear(event(Stage.SYSTEMD_RUNNING, 50, boot="b1"), 0)
    watch.hear(event(Stage.DHCP_OFFER, 90), 0)
    assert watch.nodes["n1"].started == T0 + timedelta(seconds=90)


def shown(watch: watching.Watch, names: list[str], now: float) -> list[str]:
    console = Console(width=200, file=io.StringIO())
    console.print(watching.board(watch, names, T0 + timedelta(seconds=now)))
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_the_board_counts_while_a_boot_goes_on_and_stops_when_it_is_over() -> None:
    watch = watching.Watch()
    watch.hear(event(Stage.DHCP_OFFER, 0), 0)
    watch.hear(event(Stage.IMAGE_PROGRESS, 10, details={"percent": 25, "method": "http\x1b"}), 0)
    assert shown(watch, ["n1", "n2"], 12)[1].endswith("image.progress 12.0 s 25%, method http\\x1b")
    assert shown(watch, ["n1", "n2"], 12)[2].endswith("waiting")
    watch.hear(event(Stage.SYSTEMD_RUNNING, 30, boot="b1"), 0)
    assert shown(watch, ["n1"], 99)[1].endswith("systemd.running 30.0 s")
    watch.hear(event(Stage.IMAGE_VERIFIED, 40, boot="b2", status="failed", reason="wrong [red]hash"), 0)
    assert shown(watch, ["n1"], 99)[1].endswith("image.verified 0.0 s image.verified: wrong [red]hash")


def test_lines_are_safe() -> None:
    told = watching.line(event(Stage.IMAGE_SOURCE, 0, status="degraded", reason="x\x1b[2J\n"))
    assert "DEGRADED" in told
    assert "\x1b" not in told
    assert "\n" not in told


# --- arming -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> FakeCluster:
    """One where arming works, until T0 plus what was asked for; n001 uses a template."""
    nodes = {f"n00{n}": {"mac": f"52:54:00:77:00:1{n}", "address": f"10.77.0.1{n}"} for n in (1, 2, 3)}
    nodes["n001"]["template"] = "compute"
    cluster = FakeCluster({Kind.NODE: nodes})

    def arm(request: m.ArmRequest) -> m.ArmedReply:
        until = T0 + timedelta(seconds=request.seconds)
        nodes = [m.Armed(node=node, until=until, author=request.author) for node in request.nodes]
        return m.ArmedReply(nodes=nodes if request.seconds else [])

    cluster.answer(Service.AUTH, "arm", m.ArmRequest, arm)
    cluster.answer(Service.AUTH, "quarantine", m.Empty, m.QuarantineReply(entries=[]))
    return cluster


@pytest.fixture(autouse=True)
def _greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("words", "nodes", "seconds", "told"),
    [
        (["n[001-003]"], ["n001", "n002", "n003"], 1800, "armed until 2026-11-20 12:30:00: n[001-003]\n"),
        (["@compute", "--for", "2h"], ["n001"], 7200, "armed until 2026-11-20 14:00:00: n001\n"),
        (["n002", "--for", "90s"], ["n002"], 90, "armed until 2026-11-20 12:01:30: n002\n"),
        (["n002", "--for", "7d"], ["n002"], 604_800, "armed until 2026-11-27 12:00:00: n002\n"),
    ],
)
def test_arming_expects_boots_for_a_while(
    cluster: FakeCluster,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    nodes: list[str],
    seconds: int,
    told: str,
) -> None:
    assert cluster.shoal("boot", "arm", *words) == 0
    assert cluster.asked(m.ArmRequest) == [m.ArmRequest(nodes=nodes, seconds=seconds, author="tester@here")]
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("time_", ["0m", "8d", "30", "m", "1.5h", "-1h", "", "1h\x1b", "99999999s"])
def test_a_time_that_is_none_is_wrong_usage(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], time_: str
) -> None:
    assert cluster.shoal("boot", "arm", "n001", "--for", time_) == 2
    err = capsys.readouterr().err
    assert "write 90s, 30m, 2h or 1d" in err
    assert "\x1b" not in err
    assert cluster.asked(m.ArmRequest) == []


def test_nodes_that_nobody_knows_are_not_armed(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.shoal("boot", "arm", "n[001-009]") == 1
    assert "not registered: n[004-009]" in capsys.readouterr().err
    assert cluster.asked(m.ArmRequest) == []


def test_who_arms_a_node_is_told_of_an_attempt_that_waits(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = m.Party(key=Key.new().public, address="10.77.0.12", at=T0)
    held = [m.Quarantined(node=n, attempt=attempt, reason="nobody expected it", last=T0) for n in ("n002", "other")]
    cluster.answer(Service.AUTH, "quarantine", m.Empty, m.QuarantineReply(entries=held))
    assert cluster.shoal("boot", "arm", "n[001-002]") == 0
    assert "n002 tried before" in (err := capsys.readouterr().err)
    assert "`shoal quarantine admit n002`" in err


def test_each_end_is_told_with_its_nodes(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    later = T0 + timedelta(days=1)
    nodes = [m.Armed(node=n, until=later if n == "n002" else T0, author="x") for n in ("n001", "n002", "n003")]
    cluster.answer(Service.AUTH, "arm", m.ArmRequest, m.ArmedReply(nodes=nodes))
    assert cluster.shoal("boot", "arm", "n[001-003]") == 0
    assert capsys.readouterr().out.splitlines() == [
        "armed until 2026-11-20 12:00:00: n[001,003]",
        "armed until 2026-11-21 12:00:00: n002",
    ]


def test_disarming(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.shoal("boot", "disarm", "n[001-002]") == 0
    assert cluster.asked(m.ArmRequest) == [m.ArmRequest(nodes=["n001", "n002"], seconds=0, author="tester@here")]
    assert capsys.readouterr().out == "disarmed: n[001-002]\n"


def test_what_is_armed(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [
        m.Armed(node="n002", until=T0 + timedelta(hours=1), author="alice@head"),
        m.Armed(node="n001", until=T0, author="node n001"),
    ]
    cluster.answer(Service.AUTH, "armed", m.Empty, m.ArmedReply(nodes=nodes))
    assert cluster.shoal("boot", "armed") == 0
    assert [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()] == [
        ["NODE", "UNTIL", "BY"],
        ["n001", "2026-11-20", "12:00:00", "node n001"],
        ["n002", "2026-11-20", "13:00:00", "alice@head"],
    ]
    assert cluster.shoal("boot", "armed", "-o", "json") == 0
    assert [node["node"] for node in json.loads(capsys.readouterr().out)] == ["n001", "n002"]


@pytest.mark.parametrize(
    ("admission", "armed", "hint"), [("armed", [], True), ("armed", ["n001"], False), ("always", [], False)]
)
def test_why_of_a_node_that_never_booted_says_that_it_must_be_armed(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], admission: str, armed: list[str], hint: bool
) -> None:
    shown = m.ShowNodeReply(
        node="n001", values=[m.EffectiveValue(field="admission", value=admission, source="default")]
    )
    nodes = [m.Armed(node=node, until=T0, author="x") for node in armed]
    cluster.answer(Service.FLEET, "boots", m.BootsRequest, m.BootsReply(boots=[]))
    cluster.answer(Service.REGISTRY, "show-node", m.ShowNodeRequest, shown)
    cluster.answer(Service.AUTH, "armed", m.Empty, m.ArmedReply(nodes=nodes))
    assert cluster.shoal("boot", "why", "n001") == 1
    err = capsys.readouterr().err
    assert "no boot is known of n001" in err
    assert ("it must be armed: `shoal boot arm n001`" in err) is hint
    cluster.answer(Service.AUTH, "armed", m.Empty, Unavailable("nobody answers"))
    assert cluster.shoal("boot", "why", "n001") == 1
    assert "no boot is known of n001" in capsys.readouterr().err
