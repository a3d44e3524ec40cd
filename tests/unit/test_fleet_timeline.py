"""Boot events to boots, whatever the order in which they arrive."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_fleet.timeline import BOOTS, Timeline
from shoal_model.messages import BootEvent, Status
from shoal_model.subjects import Stage

T0 = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
S = Stage


def event(stage: Stage, seconds: float, boot: str | None = None, status: Status = Status.OK) -> BootEvent:
    return BootEvent(node="n001", stage=stage, at=T0 + timedelta(seconds=seconds), boot=boot, status=status)


def timeline(*events: BootEvent) -> Timeline:
    line = Timeline()
    for one in events:
        line.add(one)
    return line


def shape(line: Timeline) -> list[tuple[str | None, list[str]]]:
    return [(boot.boot, [one.stage.value for one in boot.events]) for boot in line.boots("n001")]


def test_addresses_belong_to_the_boot_that_follows() -> None:
    line = timeline(
        event(S.DHCP_OFFER, 0), event(S.DHCP_ACK, 1), event(S.LOADER_CONFIG, 2, "b1"), event(S.STAGE1_START, 9, "b1")
    )
    assert shape(line) == [("b1", ["dhcp.offer", "dhcp.ack", "loader.config", "stage1.start"])]


def test_an_address_that_arrives_late_still_belongs_to_its_boot() -> None:
    line = timeline(event(S.DHCP_OFFER, 0), event(S.LOADER_CONFIG, 2, "b1"), event(S.DHCP_ACK, 1))
    assert shape(line) == [("b1", ["dhcp.offer", "dhcp.ack", "loader.config"])]


def test_a_node_that_only_gets_an_address_is_a_boot_that_got_no_further() -> None:
    line = timeline(event(S.DHCP_OFFER, 0), event(S.DHCP_ACK, 1))
    assert shape(line) == [(None, ["dhcp.offer", "dhcp.ack"])]
    assert line.latest_id("n001") is None


def test_a_lease_that_is_renewed_is_no_boot() -> None:
    line = timeline(event(S.LOADER_CONFIG, 0, "b1"), event(S.DHCP_ACK, 7200))
    assert shape(line) == [("b1", ["loader.config"])]


def test_an_address_long_before_belongs_to_nothing_later() -> None:
    line = timeline(event(S.DHCP_OFFER, 0), event(S.LOADER_CONFIG, 700, "b1"))
    assert shape(line) == [("b1", ["loader.config"])]


def test_a_second_boot_is_the_latest_and_its_addresses_are_its_own() -> None:
    line = timeline(
        event(S.DHCP_OFFER, 0), event(S.LOADER_CONFIG, 2, "b1"), event(S.SYSTEMD_RUNNING, 60, "b1"),
        event(S.DHCP_OFFER, 100), event(S.LOADER_CONFIG, 102, "b2"),
    )  # fmt: skip
    assert [boot for boot, _ in shape(line)] == ["b2", "b1"]
    assert shape(line)[0][1] == ["dhcp.offer", "loader.config"]
    # an event of the first boot that comes late goes where it belongs
    line.add(event(S.STAGE2_START, 30, "b1"))
    assert [boot for boot, _ in shape(line)] == ["b2", "b1"]
    assert shape(line)[1][1] == ["dhcp.offer", "loader.config", "stage2.start", "systemd.running"]


def test_a_node_whose_clock_is_years_ahead_does_not_stay_the_latest_boot() -> None:
    line = timeline(event(S.STAGE1_START, 1e9, "b1"), event(S.LOADER_CONFIG, 100, "b2"))
    latest = line.latest("n001")
    assert latest is not None
    assert latest.boot == "b2"


def test_a_sign_of_life_shows_that_an_address_was_not_for_a_boot() -> None:
    line = timeline(event(S.LOADER_CONFIG, 0, "b1"), event(S.DHCP_OFFER, 7200))
    line.alive("n001", "b0")
    assert [boot for boot, _ in shape(line)] == [None, "b1"]
    line.alive("n001", "b1")
    assert [boot for boot, _ in shape(line)] == ["b1"]


def test_progress_is_the_latest_and_repeats_are_bounded() -> None:
    line = timeline(event(S.LOADER_CONFIG, 0, "b1"))
    for number in range(100):
        line.add(event(S.IMAGE_PROGRESS, 10 + number, "b1"))
        line.add(event(S.LOADER_KERNEL, 5 + number, "b1"))
    (boot,) = line.boots("n001")
    progress = [one for one in boot.events if one.stage is S.IMAGE_PROGRESS]
    kernels = [one for one in boot.events if one.stage is S.LOADER_KERNEL]
    assert [one.at for one in progress] == [T0 + timedelta(seconds=109)]
    assert (kernels[0].at, kernels[-1].at, len(kernels)) == (T0 + timedelta(seconds=5), T0 + timedelta(seconds=104), 8)


def test_an_event_sent_twice_counts_once() -> None:
    once = event(S.LOADER_CONFIG, 0, "b1")
    assert shape(timeline(once, once)) == [("b1", ["loader.config"])]


def test_only_the_latest_boots_are_kept() -> None:
    line = timeline(*(event(S.LOADER_CONFIG, number * 100, f"b{number}") for number in range(20)))
    assert [boot for boot, _ in shape(line)] == [f"b{number}" for number in range(19, 19 - BOOTS, -1)]


def test_details_of_any_size_are_cut() -> None:
    huge = event(S.LOADER_CONFIG, 0, "b1").model_copy(update={"details": {f"k{n}": "x" * 9999 for n in range(99)}})
    (boot,) = timeline(huge).boots("n001")
    assert len(boot.events[0].details) == 32
    assert max(len(str(value)) for value in boot.events[0].details.values()) == 500


def test_a_node_is_forgotten() -> None:
    line = timeline(event(S.LOADER_CONFIG, 0, "b1"))
    assert list(line) == ["n001"]
    line.forget("n001")
    assert (list(line), line.latest("n001")) == ([], None)


boots = st.sampled_from([None, "b1", "b2", "b3", "b4", "b5", "b6", "b7"])
events = st.builds(event, st.sampled_from(list(Stage)), st.floats(-1e6, 1e6), boots, st.sampled_from(list(Status)))


@given(st.lists(events, max_size=80))
def test_whatever_arrives_boots_stay_few_ordered_and_of_their_own_events(arrived: list[BootEvent]) -> None:
    line = timeline(*arrived)
    found = line.boots("n001")
    assert len(found) <= BOOTS + 1
    assert len({boot.boot for boot in found}) == len(found)
    for boot in found:
        assert [one.at for one in boot.events] == sorted(one.at for one in boot.events)
        assert all(one.boot in (boot.boot, None) and one in arrived for one in boot.events)


@pytest.mark.parametrize("at", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
def test_a_clock_at_the_end_of_time_is_borne(at: datetime) -> None:
    line = Timeline()
    for stage, boot in ((S.DHCP_OFFER, None), (S.LOADER_CONFIG, "b1"), (S.DHCP_ACK, None), (S.STAGE1_START, "b1")):
        line.add(BootEvent(node="n001", stage=stage, at=at, boot=boot))
    line.add(event(S.DHCP_OFFER, 0))
    line.add(event(S.LOADER_CONFIG, 1, "b2"))
    assert [boot for boot, _ in shape(line)] == ["b2", "b1"]


def test_details_are_cut_in_keys_as_in_values() -> None:
    line = Timeline()
    details: dict[str, str | int | float | bool] = {f"{number}-" + "k" * 80_000: "v" for number in range(32)}
    line.add(event(S.LOADER_CONFIG, 0, "b1").model_copy(update={"details": details}))
    latest = line.latest("n001")
    assert latest is not None
    assert max(len(key) for key in latest.events[0].details) <= 64
