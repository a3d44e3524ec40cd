"""What an operator does at the console of a node: `early-shell` and `debug` on the kernel command line."""

import pytest

from lab.boots import BootLab
from shoal_model.subjects import Stage

pytestmark = [pytest.mark.boot, pytest.mark.e2e]


def test_early_shell_waits_for_exit_at_the_start_of_stage_2(boots: BootLab) -> None:
    with boots.on(boots.register("shy", "boot.parameters=console=ttyS0 early-shell")) as running:
        node = running["shy"]
        node.wait_for("built-in shell (ash)", 240)
        assert "a shell on the console; `exit` goes on" in node.text()
        node.type("cat /proc/1/comm >/etc/one; echo marker-$((6 * 7))")
        node.wait_for("marker-42", 60)
        assert not running.reached("shy", Stage.STAGE2_START)
        node.type("exit")
        running.until(Stage.SYSTEMD_RUNNING)
        assert "systemd" not in boots.says("shy", "cat", "/etc/one")
        assert boots.story("shy")["arrived"]


def test_debug_makes_both_stages_say_more(boots: BootLab) -> None:
    with boots.on(boots.register("chatty", "boot.parameters=console=ttyS0 debug")) as running:
        running.until(Stage.SYSTEMD_RUNNING)
        story = boots.story("chatty")
    log = (boots.head.state / "logs" / "chatty" / f"{story['boot']}.log").read_text()
    assert "stage1" in log
    assert "drivers: round 1, " in log, "stage 1 said no more than it does without debug"
    assert story["arrived"]
