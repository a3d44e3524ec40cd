"""When a session starts, and which nodes it waits for."""

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest

from shoal_bus.errors import Unavailable
from shoal_mcastd.gather import Booting, Gathering, may_start
from shoal_mcastd.session import choose_group
from shoal_mcastd.sessions import Head, Sessions
from shoal_model.messages import BootEvent, Status
from shoal_model.subjects import Stage, boot_event

IMAGE, OTHER = "a" * 64, "b" * 64


def _event(node: str, stage: Stage, status: Status = Status.OK, **details: str) -> BootEvent:
    return BootEvent(node=node, stage=stage, at=datetime(2026, 1, 1, tzinfo=UTC), status=status, details=details)


@pytest.mark.parametrize(
    ("joined", "ready", "awaited", "now", "starts"),
    [
        (1, 1, 0, 0.9, False),  # somebody of whom nothing was heard may come within a second
        (1, 1, 0, 1.0, True),
        (2, 1, 0, 5.0, False),  # one has not heard a beacon yet
        (2, 1, 0, 15.0, True),
        (2, 2, 1, 14.9, False),  # one more boots the same image
        (2, 2, 1, 15.0, True),
        (1, 0, 0, 99.0, False),  # nobody hears us: an image sent now would be heard by nobody
    ],
)
def test_a_session_starts_when_all_are_there_or_the_time_is_up(
    joined: int, ready: int, awaited: int, now: float, starts: bool
) -> None:
    assert may_start(Gathering(0.0, joined, ready, awaited), 15.0, now) is starts


def test_nodes_between_loader_and_join_are_awaited_each_for_its_image() -> None:
    booting = Booting()
    booting.hear(_event("n1", Stage.LOADER_CONFIG), IMAGE, 0)
    booting.hear(_event("n2", Stage.LOADER_INITRD), OTHER, 0)
    booting.hear(_event("n3", Stage.DHCP_ACK), IMAGE, 0)
    booting.hear(_event("n4", Stage.STAGE1_BUS), IMAGE, 0)
    booting.hear(_event("n5", Stage.LOADER_KERNEL), None, 0)
    assert booting.awaited(IMAGE, 1) == {"n1", "n4"}
    assert booting.awaited(OTHER, 1) == {"n2"}


@pytest.mark.parametrize(
    ("event", "still"),
    [
        (_event("n1", Stage.DHCP_ACK), True),
        (_event("n1", Stage.STAGE1_NETWORK), True),
        (_event("n1", Stage.IMAGE_SOURCE, method="multicast"), True),
        (_event("n1", Stage.IMAGE_SOURCE, method="http"), False),
        (_event("n1", Stage.STAGE1_BUS, Status.FAILED), False),
        (_event("n1", Stage.IMAGE_RECEIVED), False),
        (_event("n1", Stage.SYSTEMD_RUNNING), False),
    ],
)
def test_who_goes_another_way_is_awaited_no_more(event: BootEvent, still: bool) -> None:
    booting = Booting()
    booting.hear(_event("n1", Stage.LOADER_CONFIG), IMAGE, 0)
    booting.hear(event, IMAGE, 1)
    assert (booting.awaited(IMAGE, 2) == {"n1"}) is still


def test_who_is_silent_for_minutes_or_forgotten_is_awaited_no_more() -> None:
    booting = Booting()
    for node in ("n1", "n2"):
        booting.hear(_event(node, Stage.LOADER_CONFIG), IMAGE, 0)
    booting.hear(_event("n2", Stage.LOADER_INITRD), IMAGE, 150)
    assert booting.awaited(IMAGE, 200) == {"n2"}
    booting.forget("n2")
    booting.forget("n2")
    assert booting.awaited(IMAGE, 200) == set()


def test_groups_lie_in_the_range_and_are_never_shared() -> None:
    taken: set[str] = set()
    for session in range(14):
        group = choose_group(session, "239.77.3.0/28", taken)
        assert group.startswith("239.77.3.")
        assert group not in taken | {"239.77.3.0", "239.77.3.15"}
        taken.add(group)
    with pytest.raises(Unavailable, match="in use"):
        choose_group(99, "239.77.3.0/28", taken)


def test_what_a_node_says_of_another_is_not_believed() -> None:
    sessions = Sessions(cast("Head", SimpleNamespace(view=None)))
    said = _event("n1", Stage.LOADER_CONFIG, image=IMAGE)
    sessions.hear(boot_event("n2", Stage.LOADER_CONFIG), said)
    sessions.hear(boot_event("n1", Stage.STAGE1_START), said)
    assert sessions._booting.awaited(IMAGE, time.monotonic()) == set()
    sessions.hear(boot_event("n1", Stage.LOADER_CONFIG), said)
    assert sessions._booting.awaited(IMAGE, time.monotonic()) == {"n1"}
