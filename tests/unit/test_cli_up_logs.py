"""The logs of a head's programs, and what its disk and its terminal do to them."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest

from shoal_cli.commands.up import say
from shoal_cli.terminal import note
from shoal_cli.up.log_file import LogFile


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_full_log_makes_room(tmp_path: Path) -> None:
    said: list[str] = []
    log = LogFile(tmp_path / "x.log", said.append, limit=100)
    for number in range(30):
        log.write(b"line %d" % number)
    log.close()
    assert (tmp_path / "x.log").stat().st_size < 120
    assert (tmp_path / "x.log.1").stat().st_size < 120
    assert (tmp_path / "x.log").read_text().splitlines()[-1] == "line 29"
    assert said == []


def test_a_full_disk_is_told_of_once_and_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    clock, path = Clock(), tmp_path / "x.log"
    path.symlink_to("/dev/full")
    log = LogFile(path, said.append, clock=clock)
    for line in (b"one", b"two"):
        log.write(line)
    clock.now = 20
    log.write(b"three")
    assert said == [f"cannot write {path}: No space left on device; until it can be, its lines are shown here alone"]
    path.unlink()
    log.write(b"four")
    assert not path.exists()  # not at once: a disk that is full would be asked with every line
    clock.now = 40
    log.write(b"five")
    log.write(b"six")
    assert path.read_text() == "\nfive\nsix\n"
    assert said[1:] == [f"{path} is written again; lines missing in it: 4"]
    log.close()


def test_a_folder_that_is_not_there_is_one_too(tmp_path: Path) -> None:
    said: list[str] = []
    clock, path = Clock(), tmp_path / "gone" / "x.log"
    log = LogFile(path, said.append, clock=clock)
    log.write(b"one")
    path.parent.mkdir()
    clock.now = 20
    log.write(b"two")
    log.close()
    assert path.read_text().split() == ["two"]
    assert [line.split(":")[0] for line in said] == [
        f"cannot write {path}",
        f"{path} is written again; lines missing in it",
    ]


class Full(io.StringIO):
    """A stderr that goes to a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_terminal_that_takes_nothing_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    with pytest.raises(OSError, match="No space left"):
        note("not here")
    say("nor here, which is no reason to end")
