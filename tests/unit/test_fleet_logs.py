"""Stage logs on disk, and the gate that datagrams pass."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_fleet.datagrams import BURST, Gate
from shoal_fleet.log_writer import LogWriter
from shoal_fleet.stage_logs import StageLogs, boot_name, printable, stamped
from shoal_model.messages import LogLines

NOW = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)


def test_lines_are_appended_and_read_from_the_end(tmp_path: Path) -> None:
    logs = StageLogs(tmp_path)
    logs.append("n001", "b1", ["one", "two"])
    logs.append("n001", "b1", ["three"])
    assert logs.tail("n001", "b1", 1000) == "one\ntwo\nthree\n"
    assert logs.tail("n001", "b1", 8) == "three\n"
    assert logs.tail("n001", "b2", 1000) == ""
    assert logs.latest("n001") == "b1"
    assert logs.latest("n002") is None


def test_a_log_is_bounded_and_its_end_is_kept(tmp_path: Path) -> None:
    logs = StageLogs(tmp_path, size=1000)
    for number in range(500):
        logs.append("n001", "b1", [f"line {number:04}"])
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "n001").iterdir()}
    assert set(sizes) == {"b1.log", "b1.log.1"}
    assert max(sizes.values()) <= 1000
    lines = logs.tail("n001", "b1", 1500).splitlines()
    assert lines[-1] == "line 0499"
    assert lines == [f"line {number:04}" for number in range(500 - len(lines), 500)]
    logs.append("n001", "b1", ["x" * 5000])
    assert (tmp_path / "n001" / "b1.log").stat().st_size == 1000


def test_only_the_latest_boots_keep_their_logs(tmp_path: Path) -> None:
    logs = StageLogs(tmp_path, boots=3)
    for number in range(8):
        logs.append("n001", f"b{number}", ["x"])
        os.utime(tmp_path / "n001" / f"b{number}.log", (number, number))
    assert sorted(path.name for path in (tmp_path / "n001").iterdir()) == ["b5.log", "b6.log", "b7.log"]


@pytest.mark.parametrize("boot", ["", "..", "../x", "a/b", "a.b", "-x", "a\0b", "x" * 65, ".position"])
def test_a_boot_id_that_is_a_path_is_refused(tmp_path: Path, boot: str) -> None:
    with pytest.raises(ValueError, match="is no boot id"):
        StageLogs(tmp_path).append("n001", boot, ["x"])
    assert list(tmp_path.rglob("*.log")) == []


@pytest.mark.parametrize("node", ["", "..", "a/b", "N1"])
def test_a_node_id_that_is_a_path_is_refused(tmp_path: Path, node: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        StageLogs(tmp_path).tail(node, "b1", 10)


def test_a_link_in_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "n001").mkdir()
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "n001" / "b1.log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        StageLogs(tmp_path).append("n001", "b1", ["x"])
    assert target.read_text() == ""


@given(st.text())
def test_what_is_shown_on_a_terminal_has_no_control_characters(text: str) -> None:
    assert all(c.isprintable() or c == "\t" for c in printable(text))


@given(st.text(max_size=80))
def test_every_boot_id_names_a_file_in_its_folder_or_is_refused(boot: str) -> None:
    try:
        name = boot_name(boot)
    except ValueError:
        return
    assert os.path.basename(f"{name}.log") == f"{name}.log"
    assert not name.startswith(".")


def test_lines_are_stamped_with_time_and_stage() -> None:
    assert stamped(["hello \x1b[31m"], "stage1", NOW) == ["2026-11-20T05:00:00.000+00:00 stage1 hello \\x1b[31m"]


# --- the writer -------------------------------------------------------------------------------------------


def lines(sequence: int, *text: str, boot: str = "b1") -> LogLines:
    return LogLines(node="n001", boot=boot, stage="stage1", sequence=sequence, lines=list(text))


async def written(writer: LogWriter) -> None:
    """Let the writer write what waits."""
    task = asyncio.create_task(writer.run())
    await writer.drained()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_gaps_are_told_and_repeats_passed_over(tmp_path: Path) -> None:
    logs = StageLogs(tmp_path / "logs")
    writer = LogWriter(logs, tmp_path / "logs" / ".position", lambda: NOW)
    assert writer.position() == 0
    for position, message in enumerate(
        [lines(0, "a"), lines(0, "a"), lines(1, "b"), lines(4, "c"), lines(0, "again")], 11
    ):
        await writer.lines(message, position)
    writer.datagram("n001", None, ["early"])
    await written(writer)
    text = [line.split(" ", 2)[2] for line in logs.tail("n001", "b1", 9999).splitlines()]
    assert text == ["a", "b", "(2 messages of this log were lost)", "c", "again"]
    assert logs.tail("n001", "unknown", 99).split(" ")[1:] == ["udp", "early\n"]
    assert LogWriter(logs, tmp_path / "logs" / ".position", lambda: NOW).position() == 15


async def test_a_bad_boot_id_and_a_bad_disk_stop_nothing(tmp_path: Path) -> None:
    logs = StageLogs(tmp_path)
    writer = LogWriter(logs, tmp_path / ".position", lambda: NOW)
    (tmp_path / "n001").mkdir()
    (tmp_path / "n001" / "b2.log").mkdir()
    await writer.lines(lines(0, "x", boot="../../etc"), 1)
    await writer.lines(lines(0, "x", boot="b2"), 2)
    await writer.lines(lines(0, "x", boot="b3"), 3)
    await written(writer)
    assert logs.tail("n001", "b3", 99).endswith("x\n")
    assert writer.position() == 3


async def test_a_position_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    position = tmp_path / ".position"
    (position / "in-the-way").mkdir(parents=True)
    writer = LogWriter(StageLogs(tmp_path / "logs"), position, lambda: NOW)
    await writer.lines(lines(0, "x"), 1)
    await written(writer)
    assert sorted(path.name for path in tmp_path.iterdir())  # noqa: ASYNC240 - a test, nothing waits == [".position", "logs"]


def test_a_position_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    position = tmp_path / ".position"
    position.write_text("{}")
    assert LogWriter(StageLogs(tmp_path), position, lambda: NOW).position() == 0


# --- the gate ---------------------------------------------------------------------------------------------


def gate() -> Gate:
    return Gate({"10.77.0.11": "n001", "10.77.0.12": "n002"}.get)


def test_datagrams_are_lines_of_the_node_they_come_from() -> None:
    assert gate().lines(b"one\r\ntwo\n\n", "10.77.0.11", 0.0) == ("n001", ["one", "two"])
    assert gate().lines(b"\xff\xfe", "10.77.0.12", 0.0) == ("n002", ["\ufffd\ufffd"])
    assert gate().lines(b"one", "10.77.0.13", 0.0) is None
    assert gate().lines(b"", "10.77.0.11", 0.0) is None


def test_a_node_that_speaks_too_fast_is_cut_off_and_others_are_not() -> None:
    one = gate()
    passed = sum(one.lines(b"x", "10.77.0.11", 0.0) is not None for _ in range(2000))
    assert passed == BURST
    assert one.lines(b"x", "10.77.0.12", 0.0) is not None
    assert one.lines(b"x", "10.77.0.11", 1.0) is not None


@given(st.binary(max_size=2000))
def test_any_datagram_becomes_lines_or_nothing(data: bytes) -> None:
    passed = gate().lines(data, "10.77.0.11", 0.0)
    assert passed is None or all("\n" not in line and line for line in passed[1])
