"""What goes wrong while a node boots, and that it boots all the same. One QEMU machine each."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.boots import BootLab
from lab.net import block_multicast, delivered, slow, unblock
from shoal_model.messages import Status
from shoal_model.subjects import Stage

pytestmark = pytest.mark.boot


def stages(story: Any) -> list[str]:  # noqa: ANN401 - parsed JSON
    """The stages of a boot, each once, in the order in which they were reached."""
    return list(dict.fromkeys(event["stage"] for event in story["events"]))


def events(story: Any, stage: Stage) -> list[Any]:  # noqa: ANN401 - parsed JSON
    return [event for event in story["events"] if event["stage"] == stage]


def test_without_multicast_and_with_its_registry_killed_a_node_boots_over_http(boots: BootLab) -> None:
    with multicast_blocked(boots), boots.on(boots.register("mute")) as running:
        node = running["mute"]
        node.wait_for("stage1.start ok", 120)
        # Until the node has asked it in vain: it would be back before it is asked.
        boots.hold_down("shoal-registry", lambda: "the head does not say what to boot" in node.text())
        assert not running.reached("mute", Stage.IMAGE_SOURCE)
        running.until(Stage.SYSTEMD_RUNNING)
        story = boots.story("mute")
    assert stages(story) == list(Stage)
    [waited] = [event for event in events(story, Stage.STAGE1_BUS) if event["status"] == "degraded"]
    assert "still trying" in waited["reason"]
    multicast, http = events(story, Stage.IMAGE_SOURCE)
    assert (multicast["details"]["method"], multicast["status"]) == ("multicast", "ok")
    assert (http["details"]["method"], http["status"]) == ("http", "degraded")
    assert "no multicast beacon from 239.77." in http["reason"]
    assert {event["details"]["method"] for event in events(story, Stage.IMAGE_RECEIVED)} == {"http"}
    assert story["arrived"]
    assert "no multicast beacon" in story["verdict"]


def test_a_bus_that_is_killed_and_killed_again_stops_no_boot_and_loses_no_stage(boots: BootLab) -> None:
    machine = boots.register("bold")
    tap = machine.nics[0].tap
    with boots.on(machine) as running:
        node = running["bold"]
        node.wait_for("stage1.network ok", 120)
        slow(boots.space, tap, "80mbit")
        begin, third = delivered(boots.space, tap), boots.image.stat().st_size // 3
        wait_until(lambda: delivered(boots.space, tap) - begin > third, 120)
        boots.kill("nats-server")
        node.wait_for("bus.lost", 30)
        assert "image.received" not in node.text(), "the image was there before the bus was killed"
        node.wait_for("stage2.start ok", 120)
        # Until stage 2 has met its absence: it would be back before it is missed.
        boots.hold_down("nats-server", lambda: "bus.unreachable" in node.text().partition("stage2.start ok")[2])
        assert "execd.options ok" not in node.text()
        running.until(Stage.SYSTEMD_RUNNING)
        story = boots.story("bold")
        assert boots.says("bold", "hostname").strip() == "bold"
    assert stages(story) == list(Stage)
    assert [event for event in story["events"] if event["status"] == "failed"] == []
    assert events(story, Stage.IMAGE_RECEIVED)[0]["details"]["method"] == "multicast"
    assert story["arrived"]


def test_a_damaged_image_is_refused_and_booted_once_it_is_repaired(boots: BootLab) -> None:
    with boots.on(boots.register("choosy")) as running:
        node = running["choosy"]
        with damaged(boots.image, at=boots.image.stat().st_size // 2):
            refused = running.until(
                Stage.IMAGE_VERIFIED, wanted=lambda event: event.status is Status.FAILED, seconds=180
            )
            # Multicast and every HTTP source give the same bytes; each is refused, and then all is tried again.
            node.wait_for("all is tried again", 120)
            assert "union.mounted" not in node.text()
            told = boots.story("choosy")
        running.until(Stage.SYSTEMD_RUNNING)
        story = boots.story("choosy")
    digest = boots.image.name
    assert refused.reason is not None
    assert f"image {digest[:12]} from multicast does not match its manifest: expected " in refused.reason
    assert not told["arrived"]
    assert told["failed"]
    assert "does not match its manifest" in told["verdict"]
    refusals = {
        event["reason"].partition(" from ")[2].partition(" does ")[0]: event
        for event in told["events"]
        if event["stage"] == Stage.IMAGE_VERIFIED
    }
    assert {"multicast", "https://10.77.0.1:8081"} <= refusals.keys()
    assert told["boot"] == story["boot"], "it should have tried again, not booted anew"
    right = [event for event in events(story, Stage.IMAGE_VERIFIED) if event["status"] == "ok"]
    assert [event["details"]["sha256"] for event in right] == [digest]
    order = [(event["stage"], event["status"]) for event in story["events"]]
    assert order.index(("image.verified", "ok")) < order.index(("union.mounted", "ok"))
    assert story["arrived"]


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.1)


@contextmanager
def multicast_blocked(boots: BootLab) -> Iterator[None]:
    """No multicast datagram of an image session leaves the head."""
    block_multicast(boots.space)
    try:
        yield
    finally:
        unblock(boots.space)


@contextmanager
def damaged(blob: Path, *, at: int) -> Iterator[None]:
    """One bit of a file is wrong."""
    flip(blob, at)
    try:
        yield
    finally:
        flip(blob, at)


def flip(blob: Path, at: int) -> None:
    with blob.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
