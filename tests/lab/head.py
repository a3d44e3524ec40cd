"""A head in the lab: `shoal up` with a state directory of its own, and the command line against it."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from lab.space import LabError, Running, Space
from shoal_cli.session import Access, access

SHOAL = Path(sys.executable).parent / "shoal"


class Head:
    """`shoal up` on one interface. What it says on stderr goes to `<state>.up.log`."""

    def __init__(self, space: Space, interface: str, state: Path, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are further SHOAL_* variables."""
        self.space, self.interface, self.state = space, interface, state
        self.log = state.with_name(f"{state.name}.up.log")
        self._env = {"SHOAL_TFTPBOOT": str(state / "tftpboot"), **(settings or {}), "SHOAL_STATE": str(state)}
        self._up: Running | None = None

    def start(self, *arguments: str, timeout: float = 90.0) -> Self:
        """Run it and return when it says `ready`. Raises LabError with what it said if it does not in time."""
        self.stop()
        self.state.mkdir(parents=True, exist_ok=True)
        argv = [str(SHOAL), "up", "--interface", self.interface, "--state", str(self.state), *arguments]
        with self.log.open("wb") as log:
            self._up = Running(self.space, argv, env=self._env, stdout=subprocess.PIPE, stderr=log)
        said = self._until_ready(timeout)
        if said != "ready":
            self.stop()
            raise LabError(f"shoal up said {said!r} instead of 'ready' within {timeout:.0f} s\n{self.tail()}")
        return self

    def __enter__(self) -> Self:
        return self if self._up is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Drain it; its exit status."""
        if self._up is None:
            return 0
        assert self._up.process.stdout is not None
        try:
            return self._up.stop(30)
        finally:
            self._up.process.stdout.close()

    @property
    def process(self) -> Running:
        """The running `shoal up`."""
        if self._up is None:
            raise LabError("the head was not started")
        return self._up

    def shoal(self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> str:
        """Run a command of the operator and return its stdout. Raises LabError with its stderr if it fails."""
        done = self.try_shoal(*arguments, stdin=stdin, timeout=timeout)
        if check and done.returncode != 0:
            raise LabError(f"shoal {' '.join(arguments)}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def try_shoal(
        self, *arguments: str, stdin: str | None = None, timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command of the operator, however it ends."""
        return subprocess.run(
            self.space.command([str(SHOAL), *arguments]),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which commands find this head."""
        return {**os.environ, **self._env}

    @property
    def access(self) -> Access:
        """How an operator reaches its bus."""
        return access(None, None, None, self.state)

    @property
    def nats(self) -> str:
        """Where its bus is."""
        return self.access.servers[0]

    def tail(self, lines: int = 40) -> str:
        """The end of what it said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _until_ready(self, timeout: float) -> str:
        """The first line on its stdout, or what there is of it when it ends or time is up."""
        stdout = self.process.process.stdout
        assert stdout is not None
        said, deadline = b"", time.monotonic() + timeout
        while not said.endswith(b"\n") and time.monotonic() < deadline:
            if select.select([stdout], [], [], 0.2)[0]:
                chunk = os.read(stdout.fileno(), 1)
                if not chunk:
                    break
                said += chunk
        return said.decode(errors="replace").strip()
