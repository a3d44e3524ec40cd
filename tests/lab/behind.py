"""Clients of a lab network with addresses of their own."""

import subprocess
from collections.abc import Sequence
from typing import Self

from lab.net import Lan
from lab.space import LabError, child_of, run


class Behind:
    """A machine on a port of a `Lan`: a network of its own, so that its programs have its address and meet the head on
    the wire, not on the loopback. A `Space`; use it as a context manager.
    """

    def __init__(self, lan: Lan, name: str, mac: str, address: str) -> None:
        """`name` has at most 14 characters; `address` comes with its prefix length (`10.77.0.11/24`)."""
        self._lan, self._name, self._mac, self._address = lan, name, mac, address
        self._keeper: subprocess.Popen[str] | None = None
        self._pid = ""

    def __enter__(self) -> Self:
        # `exec` keeps the process id that the shell tells, as the namespace of the lab counts it.
        keep = ["sh", "-c", "echo $$; exec unshare --net -- cat"]
        self._keeper = subprocess.Popen(
            self._lan.space.command(keep), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._keeper.stdout is not None
        self._pid = self._keeper.stdout.readline().strip()
        self._keeper.stdin.write("up\n")  # type: ignore[union-attr]
        self._keeper.stdin.flush()  # type: ignore[union-attr]
        self._keeper.stdout.readline()  # `cat` answers: the new network is there
        self._lan.client(self._name, self._mac)
        run(self._lan.space, "ip", "link", "set", self._name, "netns", self._pid)
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", self._address, "dev", self._name),
            ("link", "set", self._name, "up"),
        ):
            run(self, "ip", *words)
        return self

    def __exit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.communicate()

    @property
    def pid(self) -> int:
        """A process in its network, as it is known outside the lab."""
        if self._keeper is None:
            raise LabError("the machine is not there: use it as a context manager")
        return child_of(self._keeper)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The argument list that runs `argv` there."""
        return self._lan.space.command(["nsenter", "--target", self._pid, "--net", "--", *argv])
