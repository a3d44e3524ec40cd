"""Subprocesses: what they say when they fail, and that nothing of them is left."""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from shoal_image_builder.process import Cancel, Cancelled, CommandFailed, output, piped, run
from shoal_image_builder.threads import in_thread

_SLEEP = [sys.executable, "-c", "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)"]


def _gone(pid: int) -> bool:
    """Whether a process ends within some seconds; an orphan may be left as a zombie until somebody reaps it."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_output_and_environment_are_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "GMT-14")
    monkeypatch.setenv("LC_ALL", "et_EE.UTF-8")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    before = os.umask(0o077)
    try:
        told = output(["sh", "-c", "echo $TZ $LC_ALL [$PYTHONPATH] $EXTRA; umask"], cancel=Cancel(), env={"EXTRA": "1"})
    finally:
        os.umask(before)
    assert told == b"UTC C [] 1\n0022\n"


def test_a_failure_names_the_program_and_the_end_of_its_words() -> None:
    argv = ["sh", "-c", "for i in $(seq 40); do echo line $i >&2; done; exit 3"]
    with pytest.raises(CommandFailed, match=r"sh failed with exit status 3: line 26\n(.*\n)+line 40$"):
        run(argv, cancel=Cancel())
    with pytest.raises(CommandFailed, match=r"sh was ended by signal 9: it gave no reason"):
        run(["sh", "-c", "kill -9 $$"], cancel=Cancel())


def test_a_missing_program_is_told_apart() -> None:
    with pytest.raises(CommandFailed, match="no-such-program is not installed"):
        run(["no-such-program"], cancel=Cancel())


def test_lines_are_heard_as_they_come() -> None:
    heard: list[str] = []
    run(["sh", "-c", "echo one >&2; echo two >&2"], cancel=Cancel(), on_line=heard.append)
    assert heard == ["one", "two"]


def test_a_program_that_ends_before_it_has_read_all_is_a_failure() -> None:
    with pytest.raises(CommandFailed, match="failed with exit status 1: no room"):
        _feed(["sh", "-c", "echo no room >&2; exit 1"], megabytes=8)


def test_what_a_reader_leaves_is_drained() -> None:
    argv = [sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes(1 << 20))"]
    with piped(argv, cancel=Cancel(), feed=False) as pipe:
        assert pipe.read(3) == bytes(3)


def test_an_error_of_the_feeder_ends_the_program_and_stays_the_error() -> None:
    with pytest.raises(ValueError, match="ours"):
        _feed(["cat"], megabytes=1, then=ValueError("ours"))


def _feed(argv: list[str], *, megabytes: int, then: Exception | None = None) -> None:
    with piped(argv, cancel=Cancel(), feed=True) as pipe:
        pipe.write(bytes(megabytes << 20))
        if then is not None:
            raise then


def test_a_thrown_switch_ends_program_and_children() -> None:
    cancel, heard = Cancel(), list[str]()

    def throw(line: str) -> None:
        heard.append(line)
        threading.Thread(target=cancel.throw).start()

    began = time.monotonic()
    argv = ["sh", "-c", "sleep 60 & echo $! >&2; wait"]
    with pytest.raises(Cancelled):
        run(argv, cancel=cancel, on_line=throw)
    assert time.monotonic() - began < 8
    assert _gone(int(heard[0]))


def test_a_thrown_switch_starts_nothing_more() -> None:
    cancel = Cancel()
    cancel.throw()
    with pytest.raises(Cancelled):
        run(["sleep", "60"], cancel=cancel)
    with pytest.raises(Cancelled):
        cancel.check()


async def test_a_cancelled_task_ends_its_thread_and_the_programs_in_it() -> None:
    started = asyncio.Event()
    loop, heard = asyncio.get_running_loop(), list[str]()

    def line(text: str) -> None:
        heard.append(text)
        loop.call_soon_threadsafe(started.set)

    task = asyncio.create_task(in_thread(lambda cancel: run(_SLEEP, cancel=cancel, on_line=line)))
    async with asyncio.timeout(10):
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert _gone(int(heard[0]))


async def test_what_a_thread_gives_or_raises_comes_out() -> None:
    assert await in_thread(lambda _: 3) == 3
    with pytest.raises(CommandFailed):
        await in_thread(lambda cancel: run(["false"], cancel=cancel))
