"""The head goes away as a whole and comes back, while a node runs."""

import time

import pytest

from lab.boots import BootLab
from shoal_model.subjects import Stage

pytestmark = [pytest.mark.boot, pytest.mark.e2e]

BACK = 60.0
"""Seconds in which a node is to be heard again: its pauses between tries grow while the head is away."""


def test_running_nodes_come_back_to_a_head_that_was_restarted(boots: BootLab) -> None:
    with boots.on(boots.register("loyal")) as running:
        running.until(Stage.SYSTEMD_RUNNING)
        before, since = boots.story("loyal"), boots.says("loyal", "systemctl", "show", "-P", "MainPID", "shoal-execd")
        assert boots.head.stop() == 0
        boots.head.start()
        deadline = time.monotonic() + BACK
        while (state := boots.json("node", "status", "loyal")[0])["state"] != "up" or "heartbeat" not in state:
            assert time.monotonic() < deadline, f"{state} {BACK:.0f} s after the head was back"
            time.sleep(1)
        assert boots.says("loyal", "hostname").strip() == "loyal"
        assert boots.says("loyal", "systemctl", "show", "-P", "MainPID", "shoal-execd") == since
        assert boots.story("loyal")["events"] == before["events"]
        assert state["heartbeat"]["boot"] == before["boot"]
