"""Building modules for real: nothing is left behind when it is stopped, and twice gives the same package."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lab import image_modules

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("number", "at"), [(signal.SIGTERM, "download packages"), (signal.SIGINT, "install the base")])
def test_a_build_that_is_stopped_leaves_nothing(tmp_path: Path, number: signal.Signals, at: str) -> None:
    work, modules = tmp_path / "work", tmp_path / "modules"
    work.mkdir()
    argv = [str(image_modules.BUILDER), "build-module", "core", "--modules", str(modules)]
    env = os.environ | {"TMPDIR": str(work)}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        for line in builder.stdout:
            if at in line:
                builder.send_signal(number)
                break
        _, errors = builder.communicate(timeout=60)
    assert (builder.returncode, errors) == (130, "shoal-image-builder: stopped; nothing was left behind\n")
    assert list(work.iterdir()) == []
    assert not list(modules.glob("*")) if modules.exists() else True
    assert str(work) not in Path("/proc/self/mountinfo").read_text()
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(work) in _command(pid)]


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""  # it has ended since


@pytest.mark.soak
@pytest.mark.parametrize("verb", [("build-module", "core"), ("build-runtime",)])
def test_a_module_built_twice_is_the_same_package(tmp_path: Path, verb: tuple[str, ...]) -> None:
    for folder, zone in (("one", "UTC"), ("two", "Pacific/Kiritimati")):
        argv = [str(image_modules.BUILDER), *verb, "--modules", str(tmp_path / folder)]
        subprocess.run(argv, env=os.environ | {"TZ": zone}, check=True, umask=0o077 if folder == "two" else 0o022)
    packages = [next((tmp_path / folder).glob("*.deb")) for folder in ("one", "two")]
    assert packages[0].name == packages[1].name
    assert packages[0].read_bytes() == packages[1].read_bytes()
