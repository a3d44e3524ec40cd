"""How often alarms may be: per attempt, per node, in all; and no more is remembered than that takes."""

from datetime import UTC, datetime

import pytest

from shoal_auth import notices
from shoal_auth.limits import Bucket, Buckets
from shoal_auth.notices import Alarms
from shoal_auth.verdict import Outcome, Refusal
from shoal_identity.keys import Key
from shoal_model.messages import AlarmKind, BootEvent, IdentityAlarm, Party

AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
KEYS = [Key.new().public for _ in range(8)]


def refusal(node: str = "n001", key: str = KEYS[0], outcome: Outcome = Outcome.NOT_ARMED) -> Refusal:
    party = Party(key=key, address="10.77.0.11", boot="b1", at=AT)
    return Refusal(outcome, "because", node, party, AlarmKind.NOT_ARMED, hold=True)


def test_a_bucket_lets_through_a_burst_and_then_one_at_a_time() -> None:
    bucket = Bucket(3, 10.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(109.0)
    assert bucket.take(110.0)
    assert not bucket.take(110.0)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_buckets_are_bounded_and_forget_what_is_full_again() -> None:
    buckets = Buckets(1, 10.0, 2)
    assert buckets.take("a", 100.0)
    assert buckets.take("b", 101.0)
    assert not buckets.take("c", 102.0)
    assert buckets.take("c", 112.0)
    assert not buckets.take("c", 113.0)


def test_the_same_attempt_is_told_of_once_a_minute() -> None:
    alarms = Alarms()
    assert [alarms.due(refusal(), now) for now in (100.0, 101.0, 159.0, 160.0, 161.0)] == [
        True, False, False, True, False,
    ]  # fmt: skip


def test_many_keys_for_one_node_are_not_more_than_four_alarms_a_minute_of_a_kind() -> None:
    alarms = Alarms()
    assert [alarms.due(refusal(key=key), 100.0) for key in KEYS] == [True] * 4 + [False] * 4
    assert alarms.due(refusal(key=KEYS[5], outcome=Outcome.FORGED), 100.0)
    assert alarms.due(refusal("n002", KEYS[5]), 100.0)
    assert alarms.due(refusal(key=KEYS[5]), 115.0)


def test_a_flood_over_all_nodes_ends_in_a_trickle() -> None:
    alarms = Alarms()
    first = sum(alarms.due(refusal(f"n{number}"), 100.0) for number in range(15_000))
    assert first == 10_000
    assert sum(alarms.due(refusal(f"m{number}"), 101.0) for number in range(1000)) == pytest.approx(10, abs=1)


def test_forged_attempts_for_all_nodes_leave_the_alarms_of_others() -> None:
    alarms = Alarms()
    first = sum(alarms.due(refusal(f"n{number}", outcome=Outcome.FORGED), 100.0) for number in range(15_000))
    assert first == 1000
    assert sum(alarms.due(refusal(f"n{number}"), 100.0) for number in range(15_000)) == 10_000
    assert not alarms.due(refusal("m1", outcome=Outcome.FORGED), 100.5)
    assert alarms.due(refusal("m1", outcome=Outcome.FORGED), 101.0)


@pytest.mark.parametrize("outcome", [Outcome.FORGED, Outcome.WRONG_ADDRESS])
def test_what_comes_from_elsewhere_is_an_alarm_and_no_boot(outcome: Outcome) -> None:
    (alarm,) = notices.refused(refusal(outcome=outcome), None, AT)
    assert isinstance(alarm.message, IdentityAlarm)


def test_a_refusal_is_an_alarm_and_a_boot_that_failed() -> None:
    failed, alarm = notices.refused(refusal(), None, AT)
    assert isinstance(failed.message, BootEvent)
    assert isinstance(alarm.message, IdentityAlarm)
    assert (failed.subject, alarm.subject) == ("evt.boot.n001.stage1.bus", "evt.identity.n001.alarm")
    again = notices.refused(refusal(), None, AT.replace(second=59))
    assert [one.id for one in again] == [failed.id, alarm.id], "a second replica tells the same"
    assert failed.id != alarm.id


def test_without_an_alarm_it_is_a_boot_that_failed() -> None:
    (failed,) = notices.refused(Refusal(Outcome.UNRECORDED, "because", "n001"), None, AT)
    assert isinstance(failed.message, BootEvent)
