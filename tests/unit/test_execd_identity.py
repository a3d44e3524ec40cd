"""What proves a node and its head to each other, and where its secrets are: in memory, in no log, in no boot.json."""

import asyncio
import contextlib
import hashlib
import logging
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import loggers
from lab.secure import certified
from shoal_bus import dialling
from shoal_bus.errors import Unavailable
from shoal_execd import clock, handover, head, pid1, processes, rebooting
from shoal_execd.handover import BootState, HandoverError
from shoal_execd.head import BusLog, Head, fetch_trust
from shoal_execd.identity import Identity
from shoal_execd.journal import Journal
from shoal_execd.pauses import Pauses
from shoal_execd.rebooting import Announcer, announce, going_down
from shoal_execd.timeline import Timeline
from shoal_identity import trust
from shoal_identity.keys import Key
from shoal_identity.statements import says_reboot
from shoal_identity.trust import Trust
from shoal_model import ports

TOKEN = "boot-token-of-n001"
STATE = BootState(
    node="n001",
    boot="b1",
    nats=["tls://10.77.0.1:4222"],
    head="10.77.0.1",
    address="10.77.0.11",
    sources=["https://10.77.0.1:8081"],
    image="b" * 64,
    tmp_size="25%",
    stage1_log="/run/shoal/log/stage1.log",
)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    with loggers.restored():
        yield


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    authority, _ = certified(tmp_path)
    return Identity(Key.new(), trust.Trust(authority.ca, (Key.new().public,)))


@pytest.mark.parametrize(
    ("now", "told", "off"),
    [
        (1_000_000.0, 1_000_005, 5.0),
        (1_000_000.0, 1_000_000, None),
        (1_003_600.0, 1_000_000, None),
        (1_086_400.0, 1_000_000, None),
        (1_086_401.0, 1_000_000, -86_401.0),
    ],
)
def test_the_clock_is_set_if_it_is_behind_or_more_than_a_day_ahead(
    monkeypatch: pytest.MonkeyPatch, now: float, told: int, off: float | None
) -> None:
    steps: list[int] = []
    fake = SimpleNamespace(CLOCK_REALTIME=0, time=lambda: now, clock_settime=lambda _, seconds: steps.append(seconds))
    monkeypatch.setattr(clock, "time", fake)
    assert clock.step(told) == off
    assert steps == ([] if off is None else [told])


def test_key_and_trust_are_handed_over_and_boot_json_holds_no_secret(tmp_path: Path, identity: Identity) -> None:
    run = tmp_path / "run"
    handover.save_identity(identity, run)
    handover.save(STATE, run)
    assert handover.load_identity(handover.load(run), run) == identity
    assert stat.S_IMODE((run / "secret").stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "secret/key").stat().st_mode) == 0o600
    assert trust.parse((run / "ca.crt").read_bytes()) == identity.trust
    others = [path for path in run.rglob("*") if path.is_file() and path != run / "secret/key"]
    assert len(others) == 2
    assert all(identity.key.seed not in path.read_text() for path in others)


def spoil_mode(run: Path) -> None:
    (run / "secret/key").chmod(0o640)


def spoil_key(run: Path) -> None:
    (run / "secret/key").write_text("SUAB\n")


def lose_key(run: Path) -> None:
    (run / "secret/key").unlink()


def spoil_trust(run: Path) -> None:
    (run / "ca.crt").write_text("nothing")


def lose_trust(run: Path) -> None:
    (run / "ca.crt").unlink()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_mode, r"secret/key may be read by others"),
        (spoil_key, r"secret/key"),
        (lose_key, r"secret/key.*No such file"),
        (spoil_trust, r"ca\.crt"),
        (lose_trust, r"ca\.crt"),
    ],
)
def test_a_key_that_others_may_read_and_what_is_missing_or_damaged_is_refused(
    tmp_path: Path, identity: Identity, spoil: Callable[[Path], None], named: str
) -> None:
    handover.save_identity(identity, tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(HandoverError, match=named) as caught:
        handover.load_identity(STATE, tmp_path / "run")
    assert identity.key.seed not in str(caught.value)


def test_over_a_bus_without_tls_nothing_is_proven(tmp_path: Path) -> None:
    plain = BootState(**{**STATE.__dict__, "nats": ["nats://127.0.0.1:4222"]})
    assert handover.load_identity(plain, tmp_path) is None
    way = Head("n001", plain.nats)
    assert (way.tls, way.image_keys) == (None, None)
    shown = way.credentials()
    assert (shown.key, shown.token, shown.tls, shown.inbox_prefix) == (None, None, None, "_INBOX.node.n001")


def test_a_node_shows_its_key_and_its_token_and_neither_in_its_repr(identity: Identity) -> None:
    way = Head("n001", STATE.nats, identity, TOKEN)
    shown = way.credentials()
    assert (shown.key, shown.token, shown.inbox_prefix) == (identity.key, TOKEN, "_INBOX.node.n001")
    assert shown.tls is not None
    assert shown.lifetime == 3600
    assert way.image_keys == identity.trust.image_keys
    for secret in (identity.key.seed, TOKEN):
        assert secret not in repr((way, shown, identity))


def bus_says(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("shoal.bus", logging.WARNING, "", 0, text, arguments, None)


def test_that_the_head_lets_nobody_in_is_said_plainly_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    now = 100.0
    monkeypatch.setattr(clock, "uptime", lambda: now)
    log = BusLog(Journal("stage1", [seen.append]), "n001")
    unreachable = "bus.unreachable attempts=%d server=%s error=%s"
    log.emit(bus_says(unreachable, 1, "tls://h", "Connection refused"))
    log.emit(bus_says(unreachable, 2, "tls://h", "nats: 'Authorization Violation'"))
    log.emit(bus_says(unreachable, 3, "tls://h", "nats: authorization failed"))
    log.emit(bus_says(unreachable, 4, "tls://h", "Connection refused"))
    now = 161.0
    log.emit(bus_says(unreachable, 5, "tls://h", "nats: 'Authorization Violation'"))
    said = [line.split("] ", 1)[1] for line in seen]
    refused = (
        "the head does not let this node in: it is not armed, or in quarantine; "
        "`shoal boot why n001` on the head tells why. It tries on"
    )
    assert said == ["bus.unreachable attempts=1 server=tls://h error=Connection refused", refused, refused]


def test_that_the_head_cannot_decide_is_said_plainly_beside_that_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(clock, "uptime", lambda: 100.0)
    log = BusLog(Journal("stage1", [seen.append]), "n001")
    unreachable = "bus.unreachable attempts=%d server=%s error=%s"
    for attempt, error in enumerate(
        [f"{dialling.NOT_DECIDED} within 15 s", "Authorization Violation", f"{dialling.NOT_DECIDED} within 15 s"], 1
    ):
        log.emit(bus_says(unreachable, attempt, "tls://h", error))
    undecided, refused = (line.split("] ", 1)[1] for line in seen)
    assert undecided == (
        "the head answers, and does not say whether it lets this node in: auth may be down there; "
        "`log/auth.log` in the head's state directory tells. It tries on"
    )
    assert refused.startswith("the head does not let this node in: it is not armed")


@contextmanager
def boot_file_server(answers: list[bytes | None]) -> Iterator[tuple[int, list[str]]]:
    """Gives each answer once (None: 404), the last one for ever; its port, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # who is offered too much hangs up
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_the_one_ca_crt_that_the_command_line_names_is_waited_for(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "Pauses", lambda **_: Pauses(first=0.001, longest=0.001))
    right = identity.trust.dump()
    other = trust.Trust(identity.trust.ca, (Key.new().public,)).dump()
    seen: list[str] = []
    timeline = Timeline("n001", "b1", Journal("stage1", [seen.append], verbose=True))
    with boot_file_server([None, other, bytes(trust.LONGEST + 1), right]) as (port, asked):
        monkeypatch.setattr(ports, "BOOT_HTTP", port)
        digest = hashlib.sha256(right).hexdigest()
        async with asyncio.timeout(20):
            assert await fetch_trust(["127.0.0.1"], digest, timeline) == identity.trust
    assert asked == ["/shoal/ca.crt"] * 4
    events = [message for subject, message in timeline.rest() if subject.startswith("evt.boot.")]
    assert [(event["stage"], event["status"]) for event in events] == [("stage1.bus", "degraded")]
    assert "answered 404" in events[0]["reason"]
    assert "not the one that the boot script names" in seen[1]
    assert f"is longer than {trust.LONGEST} bytes" in seen[2]


async def test_of_several_heads_the_first_that_has_it_will_do(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = identity.trust.dump()
    digest = hashlib.sha256(right).hexdigest()
    with boot_file_server([right]) as (port, _):
        monkeypatch.setattr(ports, "BOOT_HTTP", port)
        timeline = Timeline("n001", "b1", Journal("stage1", []))
        assert await fetch_trust(["127.0.0.2", "127.0.0.1"], digest, timeline) == identity.trust


def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, code: int = 0) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\ntest \"$1\" = list-jobs || exit 9\ncat <<'END'\n{jobs}\nEND\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(processes, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("jobs", "down"),
    [
        ("", False),
        ("No jobs running.", False),
        ("512 shoal-execd.service restart running", False),
        ("640 reboot.target       start waiting\n512 shoal-execd.service stop running", True),
        ("640 kexec.target start waiting", True),
        ("640 poweroff.target start waiting", True),
        ("640 halt.target start waiting", True),
        ("640 reboot.target stop waiting", False),
    ],
)
async def test_what_systemd_has_queued_tells_a_reboot_from_a_restart_of_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, down: bool
) -> None:
    systemctl(tmp_path, monkeypatch, jobs)
    assert await going_down() is down


class Auth:
    """A bus on which auth answers, or does not."""

    connected = True

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self._answer = answer

    async def request(self, subject: str, message: Mapping[str, Any], /, timeout: float = 5.0) -> dict[str, Any]:
        self.asked.append((subject, message))
        if self._answer is None:
            raise Unavailable("nobody answers")
        return self._answer

    async def publish(self, subject: str, message: Mapping[str, Any], /, timeout: float = 5.0) -> None:
        raise NotImplementedError

    async def publish_raw(
        self, subject: str, body: bytes, /, headers: Mapping[str, str] | None = None, *, timeout: float = 5.0
    ) -> None:
        raise NotImplementedError

    async def flush(self, timeout: float = 5.0, /) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"until": "2026-11-20T10:00:00Z"}, "the head expects it until 2026-11-20T10:00:00Z"),
        (None, "the head does not know that this node boots again (nobody answers): `shoal boot arm n001`"),
    ],
)
async def test_the_head_is_told_of_a_reboot_and_the_journal_whether_it_knows(
    answer: dict[str, Any] | None, said: str
) -> None:
    seen: list[str] = []
    auth = Auth(answer)
    key = Key.new()
    head = Head("n001", [], Identity(key, Trust("")))
    await announce(auth, head, "b1", Journal("execd", [seen.append]))
    ((subject, request),) = auth.asked
    assert subject == "rpc.auth.v1.announce-reboot.n001"
    assert (request["boot"], request["key"]) == ("b1", key.public)
    assert says_reboot("n001", "b1", key.public, request["signature"])
    assert said in seen[0]


async def test_who_proves_nothing_has_not_to_be_expected() -> None:
    auth = Auth({})
    await announce(auth, Head("n001", []), "b1", Journal("execd", []))
    assert auth.asked == []


def test_a_boot_that_failed_before_the_bus_let_us_in_has_nobody_to_tell() -> None:
    seen: list[str] = []
    Announcer(Journal("stage1", [seen.append]))()
    assert seen == []


def test_a_head_that_is_gone_holds_no_reboot_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebooting, "_REACH", 0.2)
    seen: list[str] = []
    announcer = Announcer(Journal("stage1", [seen.append]), Head("n001", ["nats://127.0.0.1:1"]), "b1")
    announcer()
    assert "the head does not know that this node boots again: the bus cannot be reached" in seen[-1]


class Rebooted(Exception):
    """The machine would boot anew now."""


def test_the_head_is_told_at_once_and_again_before_the_machine_boots_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []

    def reboot(argv: list[str], **_: object) -> None:
        did.append(argv[-1])
        raise Rebooted

    monkeypatch.setattr(time, "sleep", lambda seconds: did.append(f"{seconds:.0f} s"))
    monkeypatch.setattr(pid1, "shell", lambda journal, why: did.append("shell"))
    monkeypatch.setattr(subprocess, "run", reboot)
    for interactive, between in ((False, "600 s"), (True, "shell")):
        did.clear()
        with pytest.raises(Rebooted):
            pid1.give_up(Journal("stage1", []), "broken", lambda: did.append("told"), interactive=interactive)
        assert did == ["told", between, "told", "-f"]
