"""`make demo`'s second half and its end: what it shows is so, and nothing of it is left, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.demo import DEMO
from shoal_model.subjects import Stage

pytestmark = [pytest.mark.boot, pytest.mark.e2e]

TESTS = Path(__file__).parents[1]


class Demo:
    """A demo in a process group of its own, as a shell starts it; its processes carry a mark in their environment."""

    def __init__(self) -> None:
        self._mark = f"SHOAL_DEMO_TEST={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.demo"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS), name: value},
            process_group=0,
        )

    def until(self, text: str) -> None:
        """Read on until a line holds `text`."""
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            if text in line:
                return
            said.append(line)
        raise AssertionError(f"the demo ended before it said {text!r}: {''.join(said[-20:])}")

    def end(self, timeout: float) -> str:
        """The rest of what it says."""
        return self.process.communicate(timeout=timeout)[0]

    def left(self) -> list[str]:
        """What still runs of it. No process, no namespace: anonymous ones go with the last of their processes."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark.encode() in entry.read_bytes().split(b"\0"):
                    found.append((entry.parent / "cmdline").read_text())
            except OSError:  # it ended meanwhile, or belongs to the machine that we are a guest of
                continue
        return found

    def gone(self) -> bool:
        """Whether nothing is left, after a moment for the kernel."""
        deadline = time.monotonic() + 10
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.left()


@pytest.fixture
def demo() -> Iterator[Demo]:
    demo = Demo()
    yield demo
    if demo.process.poll() is None:
        os.killpg(demo.process.pid, signal.SIGKILL)
    demo.process.communicate()


def test_two_nodes_come_up_and_prove_it(demo: Demo) -> None:
    told = demo.end(900)
    assert demo.process.returncode == 0, told[-4000:]
    assert "n001, n002 up" in told
    assert demo.gone()
    report = json.loads((DEMO / "report.json").read_text())
    [session] = report["sessions"]
    assert session["complete"] == 2
    assert session["sent"] <= 1.3 * session["size"]
    names = {"n001": "red", "n002": "blue"}
    assert set(report["nodes"]) == set(names)
    for node, colour in names.items():
        told_of = report["nodes"][node]
        stages = [stage["stage"] for stage in told_of["stages"]]
        assert stages[0] == Stage.DHCP_OFFER
        assert stages[-1] == Stage.SYSTEMD_RUNNING
        assert {Stage.LOADER_CONFIG, Stage.STAGE1_START, Stage.IMAGE_VERIFIED, Stage.EXECD_CONFIGURED} <= set(stages)
        assert told_of["image"] == session["image"]
        assert told_of["options"]["generation"] == told_of["options"]["applied"]
        assert "/lib/shoal/init.d/50-greeting" in told_of["options"]["files"]
        assert f"{colour} login:" in (DEMO / f"{node}.console.log").read_text(errors="replace")


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        ("$ shoal up", signal.SIGINT, 130),
        ("$ shoal image build", signal.SIGINT, 130),
        ("loader.config", signal.SIGINT, 130),
        ("network namespace", signal.SIGTERM, 130),
        ("stage1.start", signal.SIGTERM, 130),
        ("loader.config", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_nothing_is_left_when_it_is_stopped(demo: Demo, moment: str, number: int, status: int) -> None:
    demo.until(moment)
    if number == signal.SIGINT:
        os.killpg(demo.process.pid, number)  # as the terminal does on Ctrl-C
    else:
        demo.process.send_signal(number)
    told = demo.end(30)
    assert demo.process.returncode == status
    assert demo.gone(), demo.left()
    if number != signal.SIGKILL:
        assert "stopped; with the demo's namespace goes everything that ran in it" in told
