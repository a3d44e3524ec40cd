"""Where the lab's programs run: in an anonymous namespace of their own, which dies with whoever made it.

A `Namespace` has its own network, mounts and process ids. Its first process reads a pipe that we hold; when we end,
by whatever cause, the pipe closes, that process ends, and the kernel kills every other process in the namespace and
takes away bridges, taps and mounts. So nothing is left behind even by `kill -9`, and no clean-up is needed.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, Self

_WAIT = 10.0


class LabError(Exception):
    """Something in the lab did not do what it should; the message holds what it said."""


class Space(Protocol):
    """A place where commands run."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The argument list that runs `argv` there."""


class Here:
    """The place where we are."""

    def command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)


class Namespace:
    """A place of its own. Use it as a context manager; needs root."""

    def __init__(self) -> None:
        self._keeper: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Self:
        self._keeper = subprocess.Popen(unshare(["cat"]), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            self._init = child_of(self._keeper)
            self._wait_for_new_network()
            run(self, "mount", "-t", "sysfs", "sysfs", "/sys")
            run(self, "ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(_WAIT)
            self._keeper = None

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--", *argv]

    @property
    def pid(self) -> int:
        """Its first process, as it is known outside."""
        if self._keeper is None:
            raise LabError("the namespace is not there: use it as a context manager")
        return self._init

    def _wait_for_new_network(self) -> None:
        """unshare forks before its child is `cat`; enter only once the child has its own network and /proc."""
        ours, deadline = os.readlink("/proc/self/ns/net"), time.monotonic() + _WAIT
        while os.readlink(f"/proc/{self._init}/ns/net") == ours or _name(self._init) != "cat":
            if time.monotonic() > deadline:
                raise LabError("unshare made no namespace")
            time.sleep(0.01)


def unshare(argv: Sequence[str]) -> list[str]:
    """The argument list that runs `argv` as the first process of a new namespace."""
    return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net", "--", *argv]


def run(space: Space, *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 60) -> str:
    """Run a command to its end and return its stdout. Raises LabError with its stderr if it fails."""
    done = subprocess.run(
        space.command(argv), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


class Running:
    """A program of the lab that runs until it is stopped."""

    def __init__(
        self,
        space: Space,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> None:
        command = space.command(argv)
        self._entered = command != list(argv)
        self.name = Path(argv[0]).name
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env={**os.environ, **(env or {})}
        )

    @property
    def running(self) -> bool:
        """Whether it is still there."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the program itself; nsenter, its parent, would keep it."""
        os.kill(child_of(self.process) if self._entered else self.process.pid, number)

    def stop(self, grace: float = 20.0) -> int:
        """End it with SIGTERM, with SIGKILL after `grace` seconds. Returns its exit status."""
        if self.running:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
        return self.process.wait(_WAIT)


def child_of(process: "subprocess.Popen[Any]") -> int:
    """The process id of the one child of a process, as soon as it has one."""
    deadline = time.monotonic() + _WAIT
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < deadline and process.poll() is None:
        found = children.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.01)
    raise LabError(f"process {process.pid} has no child (exit status {process.poll()})")


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
