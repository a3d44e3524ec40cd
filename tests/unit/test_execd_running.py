"""What runs on the node: scripts of init.d, remote commands, heartbeat, and what hardware says of itself."""

import asyncio
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from shoal_bus.errors import Invalid, Unavailable
from shoal_execd import RELEASE, handover, union, vitals
from shoal_execd.commands import Commands, execute, parse_command
from shoal_execd.drivers import modaliases
from shoal_execd.handover import BootState, HandoverError
from shoal_execd.journal import Journal
from shoal_execd.network import NoNetwork, Patience, await_carrier, await_interface, interfaces
from shoal_execd.pauses import Pauses
from shoal_execd.scripts import run_all
from shoal_execd.settings import Settings, SettingsError, load
from shoal_execd.timeline import Timeline

STATE = BootState(
    node="n001",
    boot="b1",
    nats=["nats://10.77.0.1:4222"],
    head="10.77.0.1",
    address="10.77.0.11",
    sources=["http://10.77.0.1:8081"],
    image="b" * 64,
    tmp_size="25%",
    stage1_log="/run/shoal/log/stage1.log",
)


def script(root: Path, name: str, text: str, mode: int = 0o755) -> None:
    folder = root / "lib/shoal/init.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(mode)


def test_scripts_run_in_the_order_of_their_names_and_their_output_is_logged(tmp_path: Path) -> None:
    for name in ("20-b", "10-a", "100-c"):
        script(tmp_path, name, f"#!/bin/sh\necho out-{name}\necho err-{name} >&2\n")
    script(tmp_path, "30-fails", "#!/bin/sh\nexit 3\n")
    script(tmp_path, "40-not-executable", "#!/bin/sh\n", 0o644)
    script(tmp_path, "50-no-interpreter", "#!/nonexistent\n")
    lines: list[str] = []
    results = run_all(tmp_path, Journal("stage2", [lines.append]))
    assert list(results) == ["10-a", "100-c", "20-b", "30-fails", "50-no-interpreter"]
    assert results["10-a"] == "0"
    assert results["30-fails"] == "exit code 3"
    assert "50-no-interpreter cannot be started" in results["50-no-interpreter"]
    said = [line.split("] ", 1)[1] for line in lines]
    assert "10-a: out-10-a" in said
    assert "10-a: err-10-a" in said


def test_a_script_that_hangs_is_ended(tmp_path: Path) -> None:
    script(tmp_path, "10-hangs", "#!/bin/sh\nsleep 60 &\nsleep 60\n")
    begin = time.monotonic()
    result = run_all(tmp_path, Journal("stage2", []), timeout=0.3)
    assert result == {"10-hangs": "not finished after 0.3 s; it was killed"}
    assert time.monotonic() - begin < 10


def test_a_script_that_starts_a_daemon_does_not_hold_the_boot_up(tmp_path: Path) -> None:
    script(tmp_path, "10-daemon", "#!/bin/sh\nsetsid sleep 20 &\necho $!\nprintf 'without an end'\n")
    script(tmp_path, "20-next", "#!/bin/sh\n")
    lines: list[str] = []
    begin = time.monotonic()
    assert run_all(tmp_path, Journal("stage2", [lines.append]), timeout=15) == {"10-daemon": "0", "20-next": "0"}
    assert time.monotonic() - begin < 10
    said = [line.split("] ", 1)[1] for line in lines]
    assert said[2:5] == ["10-daemon: without an end", "10-daemon: ends: 0", "20-next: begins"]
    os.kill(int(said[1].removeprefix("10-daemon: ")), 9)


def test_what_a_script_says_is_logged_line_by_line(tmp_path: Path) -> None:
    script(tmp_path, "10-talks", "#!/bin/sh\nseq 1 3000\nhead -c 9000 /dev/zero | tr '\\0' x\n")
    lines: list[str] = []
    run_all(tmp_path, Journal("stage2", [lines.append]))
    said = [line.split(": ", 1)[1] for line in lines[1:-1]]
    assert said[:3000] == [str(number) for number in range(1, 3001)]
    assert set("".join(said[3000:])) == {"x"}


def test_no_scripts_are_no_error(tmp_path: Path) -> None:
    assert run_all(tmp_path, Journal("stage2", [])) == {}


def order(*argv: str, identity: str = "c1", timeout: float = 20.0) -> dict[str, object]:
    return {"id": identity, "command": list(argv), "timeout": timeout}


async def test_a_command_answers_with_code_and_both_streams() -> None:
    reply = await execute(parse_command(order("sh", "-c", "echo out; echo err >&2; exit 4")))
    assert reply == {"exit_code": 4, "stdout": b"out\n", "stderr": b"err\n", "error": None}


async def test_arguments_are_not_seen_by_a_shell() -> None:
    reply = await execute(parse_command(order("echo", "$HOME; `id`")))
    assert reply["stdout"] == b"$HOME; `id`\n"


async def test_output_is_cut_and_does_not_hold_the_command_up() -> None:
    reply = await execute(parse_command(order(sys.executable, "-c", "print('x' * 2_000_000)")))
    assert reply["exit_code"] == 0
    assert len(reply["stdout"]) == 256 << 10
    less = await execute(parse_command(order("sh", "-c", "echo 123456; echo abcdef >&2") | {"output": 4}))
    assert (less["stdout"], less["stderr"], less["exit_code"]) == (b"1234", b"abcd", 0)


async def test_a_late_command_is_killed_with_its_children() -> None:
    begin = time.monotonic()
    reply = await execute(parse_command(order("sh", "-c", "echo early; sleep 60 & sleep 60", timeout=0.3)))
    assert reply["exit_code"] is None
    assert reply["stdout"] == b"early\n"
    assert "0.3 s" in reply["error"]
    assert time.monotonic() - begin < 10


async def test_what_stays_in_the_background_does_not_hold_the_answer_up() -> None:
    begin = time.monotonic()
    reply = await execute(parse_command(order("sh", "-c", "sleep 20 & echo $!")))
    assert reply["exit_code"] == 0
    assert time.monotonic() - begin < 10
    os.kill(int(reply["stdout"]), 9)


async def test_a_program_that_is_missing_is_named() -> None:
    reply = await execute(parse_command(order("no-such-program")))
    assert reply["exit_code"] is None
    assert "no-such-program" in reply["error"]


async def test_an_id_runs_once_and_is_answered_each_time(tmp_path: Path) -> None:
    commands = Commands(2)
    count = tmp_path / "count"
    asked = order("sh", "-c", f"echo x >> {count}; sleep 0.1; echo done")
    first, second = await asyncio.gather(commands.answer("", asked), commands.answer("", asked))
    third = await commands.answer("", asked)
    assert first == second == third
    assert count.read_text() == "x\n"


async def test_no_more_than_so_many_at_once_and_not_endlessly_many_wait(tmp_path: Path) -> None:
    commands = Commands(1)
    running = [asyncio.create_task(commands.answer("", order("sleep", "60", identity=f"c{n}"))) for n in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="64"):
        await commands.answer("", order("true", identity="one-more"))
    await commands.stop()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*running, return_exceptions=True)
    )


@pytest.mark.parametrize(
    "bad",
    [
        {},
        order(),
        order(""),
        order("a\0b"),
        order("true", timeout=0),
        order("true", timeout=1e9),
        order("true", timeout=float("nan")),
        order("true", identity=""),
        order("true", identity="x" * 65),
        order("true") | {"command": "true"},
        order("true") | {"timeout": True},
        order("true") | {"output": True},
        order("true") | {"output": -1},
        order("true") | {"output": (256 << 10) + 1},
    ],
)
def test_malformed_commands_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(Invalid, match="field"):
        parse_command(bad)


def test_the_heartbeat_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemFree: 1 kB\nMemAvailable:   1500 kB\n")
    (tmp_path / "uptime").write_text("123.45 200.00\n")
    (tmp_path / "loadavg").write_text("0.50 0.40 0.30 1/100 999\n")
    beat = vitals.heartbeat(STATE, tmp_path, tmp_path)
    assert (beat["memory_total"], beat["memory_available"]) == (2000 * 1024, 1500 * 1024)
    assert (beat["uptime"], beat["load"], beat["generation"]) == (123.45, 0.5, None)
    (tmp_path / "generation").write_text("c" * 64 + "\n")
    assert vitals.heartbeat(STATE, tmp_path, tmp_path)["generation"] == "c" * 64


def test_what_a_stage_leaves_is_what_the_next_one_finds(tmp_path: Path) -> None:
    timeline = Timeline("n001", "b1", Journal("stage1", []))
    timeline.journal.info("a line")
    state = BootState(**{**STATE.__dict__, "unsent": timeline.rest()})
    handover.save(state, tmp_path)
    assert handover.load(tmp_path) == state
    assert (tmp_path / "boot.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [None, "", "{}", "[]", json.dumps({"unsent": [], "more": 1})])
def test_a_damaged_handover_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "boot.json").write_text(text)
    with pytest.raises(HandoverError, match=r"boot\.json"):
        handover.load(tmp_path)


def nic(net: Path, name: str, mac: str, *, device: bool = True) -> None:
    (net / name).mkdir(parents=True)
    (net / name / "address").write_text(mac + "\n")
    if device:
        (net / name / "device").mkdir()


def test_the_boot_nic_is_the_one_with_the_address(tmp_path: Path) -> None:
    nic(tmp_path, "lo", "00:00:00:00:00:00", device=False)
    nic(tmp_path, "br0", "52:54:00:77:00:11", device=False)
    nic(tmp_path, "eth1", "52:54:00:77:00:11")
    found = await_interface("52:54:00:77:00:11", lambda: None, net=tmp_path, patience=Patience())
    assert found == "eth1"
    assert list(interfaces(tmp_path)) == ["eth1"]


def test_a_boot_nic_that_is_missing_is_named_with_those_there_are(tmp_path: Path) -> None:
    nic(tmp_path, "eth1", "52:54:00:77:00:12")
    with pytest.raises(NoNetwork, match=r"52:54:00:77:00:11.*eth1 52:54:00:77:00:12.*driver"):
        await_interface("52:54:00:77:00:11", lambda: None, net=tmp_path, patience=Patience(appear=-1))


def test_a_link_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "boot0").mkdir()
    (tmp_path / "boot0/carrier").write_text("1\n")
    assert await_carrier(Journal("stage1", []), net=tmp_path, patience=Patience()) < 5


def test_hardware_says_what_it_is(tmp_path: Path) -> None:
    for path, text in (
        ("devices/pci/0/modalias", "pci:v1\n"),
        ("devices/pci/1/modalias", "pci:v1\n"),
        ("devices/x/modalias", "\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    assert modaliases(tmp_path) == {"pci:v1"}


def test_an_image_larger_than_the_memory_is_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(union.MountFailed, match=r"needs 1048576 MiB of RAM, but [0-9]+ MiB are left"):
        union.room_for(1 << 40, union.Paths(union=tmp_path / "union"))
    assert not (tmp_path / "union").exists()


def test_the_release_is_that_of_the_distribution() -> None:
    assert version("shoal-execd") == RELEASE


def test_pauses_grow_to_their_limit_and_differ() -> None:
    pauses = Pauses(first=1.0, longest=8.0)
    got = [pauses.next() for _ in range(50)]
    assert 0.5 <= got[0] <= 1.0
    assert all(4.0 <= each <= 8.0 for each in got[3:])
    assert len(set(got)) > 40


def test_settings_come_from_the_environment() -> None:
    assert load({}) == Settings()
    assert load({"SHOAL_HEARTBEAT": "1.5", "SHOAL_COMMANDS": "3", "SHOAL_RUN": "/x"}) == Settings(1.5, 3, Path("/x"))
    for name, text in (("SHOAL_HEARTBEAT", "often"), ("SHOAL_COMMANDS", "0"), ("SHOAL_HEARTBEAT", "nan")):
        with pytest.raises(SettingsError, match=name):
            load({name: text})
