"""What is not there yet: a node waits for it, says so, and goes on by itself."""

import pytest

from lab.boots import BootLab
from shoal_model.subjects import Stage

pytestmark = [pytest.mark.boot, pytest.mark.e2e]


def test_options_that_are_late_are_waited_for(boots: BootLab) -> None:
    with boots.on(boots.register("patient")) as running:
        node = running["patient"]
        node.wait_for("stage1.start ok", 120)
        boots.hold_down("shoal-execd-config", lambda: "no options yet: " in node.text(), 240)
        assert not running.reached("patient", Stage.EXECD_CONFIGURED)
        running.until(Stage.SYSTEMD_RUNNING)
        assert boots.says("patient", "cat", "/etc/hostname") == "patient\n"
        story = boots.story("patient")
    told = [event for event in story["events"] if event["stage"] == Stage.EXECD_OPTIONS]
    assert [event["status"] for event in told] == ["degraded", "ok"]
    assert "still trying" in told[0]["reason"]
    assert story["arrived"]


@pytest.mark.parametrize("loader", ["ipxe", "pxelinux"])
def test_a_node_whose_image_is_not_built_yet_boots_once_it_is(boots: BootLab, loader: str) -> None:
    image, name = f"late-{loader}", f"early-{loader}"
    boots.head.shoal("image", "add", image, "flavor=bookworm", "version=1.0", "modules=[core, missing]")
    with boots.on(boots.register(name, f"image={image}", f"boot.loader={loader}")) as running:
        node = running[name]
        node.wait_for(f"image {image} has no release yet", 120)
        refused = running.until(Stage.LOADER_CONFIG, wanted=lambda event: event.reason is not None)
        assert refused.reason is not None
        assert f"shoal image build {image} --wait" in refused.reason
        boots.head.shoal("image", "set", image, "modules=[core]")
        boots.build(image)
        running.until(Stage.SYSTEMD_RUNNING)
        [status] = boots.json("node", "status", name)
    assert status["state"] == "up"
