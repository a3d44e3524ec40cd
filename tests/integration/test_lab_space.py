"""The lab itself: what is in a namespace is its own, and goes with its maker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.net import Lan
from lab.space import LabError, Namespace, Running, run

pytestmark = pytest.mark.integration


def test_a_namespace_has_a_network_of_its_own() -> None:
    with Namespace() as space:
        Lan(space, "br0", "10.77.0.1/24").tap("tap0")
        assert "10.77.0.1/24" in run(space, "ip", "-br", "address")
        assert "br0" in run(space, "ls", "/sys/class/net")
        with pytest.raises(LabError, match="exit status"):
            run(space, "ip", "link", "show", "eth0")
    assert not Path("/sys/class/net/br0").exists()


def test_a_program_is_signalled_through_its_wrapper() -> None:
    with Namespace() as space:
        program = Running(space, ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"])
        time.sleep(0.5)
        assert program.stop() == 7


def test_nothing_outlives_a_maker_that_is_killed() -> None:
    script = (
        "import time; from lab.space import Namespace, Running\n"
        "with Namespace() as space:\n"
        "    program = Running(space, ['sleep', '4242.25'])\n"
        "    time.sleep(0.5); print('up', flush=True); time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"up\n"
        assert _sleepers()
        maker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _sleepers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _sleepers()


def _sleepers() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes() == b"sleep\x004242.25\x00":
                found.append(entry.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
