"""The scripts of `/lib/shoal/init.d`: run in alphanumeric order before systemd starts, their output in the log."""

import os
import signal
import subprocess
import threading
from pathlib import Path

from shoal_execd.journal import Journal
from shoal_execd.places import inside
from shoal_execd.processes import environment

FOLDER = "/lib/shoal/init.d"
_TIMEOUT = 300.0
_LINE = 4096


def scripts(root: Path) -> list[Path]:
    """The executable files of the directory, in the order in which they run (by the bytes of their names)."""
    folder = inside(root, FOLDER, follow=True)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)]
    return sorted(found, key=lambda path: os.fsencode(path.name))


def run_all(root: Path, journal: Journal, *, timeout: float = _TIMEOUT) -> dict[str, str]:
    """Run them all, whatever becomes of each: name → `0` or what went wrong (`exit code 3`, `not finished after …`)."""
    return {path.name: _run(path, journal, timeout) for path in scripts(root)}


def _run(path: Path, journal: Journal, timeout: float) -> str:
    journal.info(f"{path.name}: begins")
    try:
        process = subprocess.Popen(
            [str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        journal.info(f"{path.name}: cannot be started: {error.strerror}")
        return f"cannot be started: {error.strerror}"
    late = threading.Timer(timeout, _kill, [process.pid])
    late.start()
    try:
        assert process.stdout is not None
        with process.stdout as output:
            # What a script leaves running in the background may hold the pipe: then its time ends this too.
            while line := output.readline(_LINE):
                journal.info(f"{path.name}: {line.decode('utf-8', 'replace').rstrip()}")
        code = process.wait()
        expired = late.finished.is_set()
    finally:
        late.cancel()
    result = "0" if code == 0 else f"not finished after {timeout:g} s" if expired else f"exit code {code}"
    journal.info(f"{path.name}: ends: {result}")
    return result


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended at the same moment
