"""Every subprocess of execd but operators' commands starts here: argument lists, a time limit, errors with a reason."""

import os
import subprocess
from collections.abc import Sequence

BUSYBOX = "/usr/lib/shoal/bin/busybox"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TAIL = 400


class ProcessFailed(Exception):
    """A program could not be started, ran out of time or failed; the text names it and the end of what it said."""


def environment() -> dict[str, str]:
    """What a program started by execd sees: the usual places, nothing of execd's own surroundings."""
    return {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "linux")}


def run(argv: Sequence[str], *, timeout: float, check: bool = True) -> tuple[int, str]:
    """Run a program to its end; its exit code and output, both streams together.

    `timeout` is in seconds. Raises ProcessFailed; with `check`, for an exit code other than 0 as well.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f"{' '.join(argv)}: not finished after {timeout:g} s") from None
    except OSError as error:
        raise ProcessFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
    output = done.stdout.decode("utf-8", "replace")
    if check and done.returncode != 0:
        raise ProcessFailed(f"{' '.join(argv)}: exit code {done.returncode}: {output.strip()[-_TAIL:]}")
    return done.returncode, output
