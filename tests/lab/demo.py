"""`python -m lab.demo`: two virtual nodes from nothing to a running systemd, shown as it happens, proven at the end.

The outer half builds what needs the Internet, once. The inner half runs as the first process of a namespace of its
own; when it ends, by whatever cause, the kernel takes every process, bridge, tap and mount of the demo with it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import click

from lab import demo_story, image_modules
from lab.image_modules import MODULES, ROOT
from lab.space import LabError, child_of, unshare

STORE = ROOT / ".cache" / "store"
DEMO = ROOT / "build" / "demo"
_INSIDE = "inside"
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(arguments: list[str]) -> int:
    """Both halves; the exit status says whether two nodes are up."""
    if arguments == [_INSIDE]:
        return _guarded(lambda: demo_story.tell(DEMO, modules=MODULES, store=STORE))
    if os.geteuid() != 0:
        click.echo("the demo makes a network namespace and virtual nodes: run it as root", err=True)
        return 1
    return _guarded(_outside)


def _outside() -> int:
    began = time.monotonic()
    _modules()
    status = _inside()
    click.echo(f"\n{'done' if status == 0 else 'not done'} after {time.monotonic() - began:.0f} s; see {DEMO}")
    return status


def _modules() -> None:
    """Build the packages that images are made of, where they are missing or old. This alone needs the Internet."""
    demo_story.heading("the packages that images are made of, in .cache/modules")
    image_modules.build("build-module", "core")
    image_modules.build("build-runtime")


def _inside() -> int:
    """Run the inner half. It dies with us; a signal to end us is passed on to it, so that it can say what it did."""
    libc = ctypes.CDLL(None)
    command = unshare([sys.executable, "-m", "lab.demo", _INSIDE])
    inner = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # At a terminal, Ctrl-C reaches both halves; a SIGTERM reaches us alone.
        signal.signal(number, lambda got, _frame: _pass_on(inner, got))
    return inner.wait()


def _pass_on(inner: "subprocess.Popen[bytes]", number: int) -> None:
    if number != signal.SIGINT and inner.poll() is None:
        os.kill(child_of(inner), signal.SIGTERM)


def _guarded(half: Callable[[], int]) -> int:
    """What goes wrong is told in words; a signal ends in a sentence too."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return half()
    except KeyboardInterrupt:
        click.echo("\nstopped; with the demo's namespace goes everything that ran in it", err=True)
        return 130
    except subprocess.CalledProcessError as error:
        click.echo(f"\n{' '.join(map(str, error.cmd))} failed with exit status {error.returncode}", err=True)
    except (LabError, OSError, subprocess.TimeoutExpired) as error:
        click.echo(f"\nthe demo failed: {error}", err=True)
    return 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
