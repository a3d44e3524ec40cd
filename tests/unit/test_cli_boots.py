"""Timelines and watches: what is made of a boot's events."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from shoal_cli import timeline, watching
from shoal_model.messages import Boot, BootEvent
from shoal_model.subjects import Stage

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
    ],
)
def test_verdicts(story: Boot, later: float, arrived: bool, failed: bool, text: str) -> None:
    verdict = timeline.verdict(story, T0 + timedelta(seconds=later))
    assert (verdict.arrived, verdict.failed) == (arrived, failed)
    assert text in verdict.text


def test_every_stage_has_a_verdict_when_it_is_the_last() -> None:
    for stage in list(Stage)[:-1]:
        assert timeline.verdict(boot(event(stage, 0)), T0 + timedelta(hours=1)).failed


def test_a_watch_ends_when_every_node_arrived_or_failed() -> None:
    watch = watching.Watch(("n1", "n2"))
    watch.hear(event(Stage.DHCP_OFFER, 0))
    assert not watch.ended(Stage.SYSTEMD_RUNNING)
    assert watch.missing(Stage.SYSTEMD_RUNNING) == ["n1", "n2"]
    watch.hear(event(Stage.SYSTEMD_RUNNING, 30))
    watch.hear(event(Stage.IMAGE_VERIFIED, 30, node="n2", status="failed", reason="bad"))
    assert watch.ended(Stage.SYSTEMD_RUNNING)
    assert watch.missing(Stage.SYSTEMD_RUNNING) == ["n2"]


def test_a_new_boot_begins_anew_and_the_loaders_second_dhcp_does_not() -> None:
    watch = watching.Watch()
    for told in (event(Stage.DHCP_OFFER, 0), event(Stage.DHCP_ACK, 1), event(Stage.DHCP_OFFER, 5)):
        watch.hear(told)
    assert watch.nodes["n1"].started == T0
    watch.hear(event(Stage.SYSTEMD_RUNNING, 50, boot="b1"))
    watch.hear(event(Stage.DHCP_OFFER, 90))
    assert watch.nodes["n1"].started == T0 + timedelta(seconds=90)


def shown(watch: watching.Watch, names: list[str], now: float) -> list[str]:
    console = Console(width=200, file=io.StringIO())
    console.print(watching.board(watch, names, T0 + timedelta(seconds=now)))
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_the_board_counts_while_a_boot_goes_on_and_stops_when_it_is_over() -> None:
    watch = watching.Watch()
    watch.hear(event(Stage.DHCP_OFFER, 0))
    watch.hear(event(Stage.IMAGE_PROGRESS, 10, details={"percent": 25, "method": "http\x1b"}))
    assert shown(watch, ["n1", "n2"], 12)[1].endswith("image.progress 12.0 s 25%, method http\\x1b")
    assert shown(watch, ["n1", "n2"], 12)[2].endswith("waiting")
    watch.hear(event(Stage.SYSTEMD_RUNNING, 30, boot="b1"))
    assert shown(watch, ["n1"], 99)[1].endswith("systemd.running 30.0 s")
    watch.hear(event(Stage.IMAGE_VERIFIED, 40, boot="b2", status="failed", reason="wrong [red]hash"))
    assert shown(watch, ["n1"], 99)[1].endswith("image.verified 0.0 s image.verified: wrong [red]hash")


def test_lines_are_safe() -> None:
    told = watching.line(event(Stage.IMAGE_SOURCE, 0, status="degraded", reason="x\x1b[2J\n"))
    assert "DEGRADED" in told
    assert "\x1b" not in told
    assert "\n" not in told
