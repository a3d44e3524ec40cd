"""`python -m lab.demo`: two virtual nodes from nothing to a running systemd, shown as it happens, proven at the end.

The outer half builds what needs the Internet, once. The inner half runs as the first process of a namespace of its
own; when it ends, by whatever cause, the kernel takes every process, bridge, tap and mount of the demo with it.
"""

import ctypes
import fcntl
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
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 10.0
"""Seconds that the inner half has to say what it did, before its namespace is taken from under it."""
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
    DEMO.parent.mkdir(exist_ok=True)
    with DEMO.with_name("demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo(f"another demo runs in {DEMO}: one at a time", err=True)
            return 1
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
    asked: list[float] = []
    for number in _ENDING:
        signal.signal(number, lambda *_: asked.append(time.monotonic()))
    inner = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    while True:
        try:
            status = inner.wait(0.5)
            return 130 if asked and status < 0 else status
        except subprocess.TimeoutExpired:
            # Asked more than once: the first process of a namespace does not hear a signal before it has a handler.
            if asked and time.monotonic() - asked[0] < _PATIENCE:
                os.kill(child_of(inner), signal.SIGTERM)
            elif asked:
                inner.kill()


def _guarded(half: Callable[[], int]) -> int:
    """What goes wrong is told in words; a signal ends in a sentence too."""
    for number in _ENDING:
        signal.signal(number, _interrupt)
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
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)  # once is enough: what follows is the way out
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
