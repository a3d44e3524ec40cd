"""Events and log lines on their way to the head: in order, kept until the server has them, once."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from shoal_bus import codec
from shoal_bus.errors import Unavailable
from shoal_execd.journal import Journal
from shoal_execd.timeline import Timeline, explain
from shoal_model.subjects import Stage


class FakeLink:
    """A bus that can be away, and that forgets what was not flushed when it goes."""

    def __init__(self) -> None:
        self.connected = True
        self.stored: list[tuple[str, dict[str, Any], str]] = []
        self.flushes_that_fail = 0
        self.arrived = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()
        self._buffer: list[tuple[str, dict[str, Any], str]] = []

    async def publish(self, subject: str, message: Mapping[str, Any], /, timeout: float = 5.0) -> None:
        raise NotImplementedError

    async def publish_raw(
        self, subject: str, body: bytes, /, headers: Mapping[str, str] | None = None, *, timeout: float = 5.0
    ) -> None:
        if not self.connected:
            raise Unavailable("away")
        assert headers is not None
        self._buffer.append((subject, codec.unpack(body), headers["Nats-Msg-Id"]))

    async def request(self, subject: str, message: Mapping[str, Any], /, timeout: float = 5.0) -> dict[str, Any]:
        raise NotImplementedError

    async def flush(self, timeout: float = 5.0, /) -> None:
        await self.answers.wait()
        if self.flushes_that_fail:
            self.flushes_that_fail -= 1
            raise Unavailable("the connection broke")
        self.stored += self._buffer
        self._buffer = []
        self.arrived.set()

    @property
    def stages(self) -> list[str]:
        return [message["stage"] for subject, message, _ in self.stored if subject.startswith("told.boot.")]

    @property
    def lines(self) -> list[str]:
        return [line for subject, message, _ in self.stored if subject.endswith(".log") for line in message["lines"]]


def timeline(journal: Journal | None = None) -> Timeline:
    return Timeline("n001", "b1", journal or Journal("stage1", []))


async def test_events_and_lines_arrive_in_order() -> None:
    link, line = FakeLink(), timeline()
    line.journal.info("one\ntwo")
    line.event(Stage.STAGE1_START, {"kernel": "6.1"})
    line.event(Stage.STAGE1_NETWORK)
    await line.drain(link, 1.0)
    assert link.stages == ["stage1.start", "stage1.network"]
    assert [text.split("] ")[1] for text in link.lines] == [
        "one",
        "two",
        "stage1.start ok kernel=6.1",
        "stage1.network ok",
    ]
    assert line.rest() == []


async def test_what_the_bus_did_not_take_is_sent_again_under_the_same_id() -> None:
    link, line = FakeLink(), timeline()
    line.event(Stage.STAGE1_START)
    link.flushes_that_fail = 1
    await line.drain(link, 5.0)
    assert len({identity for _, _, identity in link.stored}) == 2  # the event and its line, each twice, one id each
    assert line.rest() == []


async def test_while_the_bus_is_away_everything_waits_and_goes_over_to_the_next_stage() -> None:
    link, line = FakeLink(), timeline()
    link.connected = False
    line.event(Stage.STAGE1_START)
    await line.drain(link, 0.01)
    assert link.stored == []
    left = line.rest()
    assert [subject for subject, _ in left] == ["evt.boot.n001.stage1.start", "evt.node.n001.log"]
    link.connected = True
    following = Timeline("n001", "b1", Journal("stage2", []), left)
    following.event(Stage.STAGE2_START)
    await following.drain(link, 1.0)
    assert link.stages == ["stage1.start", "stage2.start"]


async def test_the_courier_delivers_what_is_noted_while_it_runs() -> None:
    link, line = FakeLink(), timeline()
    async with asyncio.timeout(5), line.carried(link, 1.0):
        line.event(Stage.IMAGE_SOURCE)
        await link.arrived.wait()
        line.event(Stage.IMAGE_RECEIVED)
    assert link.stages == ["image.source", "image.received"]


async def test_what_is_on_the_wire_when_the_stage_ends_is_waited_for_and_not_broken_off() -> None:
    link, line = FakeLink(), timeline()
    link.answers.clear()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5), line.carried(link, 1.0):
        line.event(Stage.STAGE2_SCRIPTS)
        await asyncio.sleep(0)  # the courier waits for the server now
        line.event(Stage.SYSTEMD_START)
        loop.call_soon(link.answers.set)
    assert link.stages == ["stage2.scripts", "systemd.start"]
    assert len(link.stored) == len({identity for _, _, identity in link.stored})


async def test_an_error_inside_is_told_once_and_raised() -> None:
    link, line = FakeLink(), timeline()

    async def stage() -> None:
        async with line.carried(link, 1.0):
            with line.attempt(Stage.UNION_MOUNTED):
                raise OSError("no such device")

    with pytest.raises(ExceptionGroup):
        await stage()
    told = [message for subject, message, _ in link.stored if subject.startswith("told.boot.")]
    assert [(event["stage"], event["status"], event["reason"]) for event in told] == [
        ("union.mounted", "failed", "OSError: no such device")
    ]


def test_an_attempt_tells_details_and_how_long_it_took() -> None:
    line = timeline()
    with line.attempt(Stage.STAGE1_BUS) as details:
        details["servers"] = "nats://10.77.0.1:4222"
    ((_, event), _) = line.rest()
    assert event["status"] == "ok"
    assert set(event["details"]) == {"servers", "seconds"}


def test_the_oldest_lines_are_dropped_and_the_loss_is_told() -> None:
    journal = Journal("stage1", [])
    for number in range(5010):
        journal.info(str(number))
    first = journal.batch()
    assert first[0] == "(10 lines lost: the head was away for too long)"
    assert first[1].endswith("] 10")
    journal.taken(first)
    assert journal.batch()[0].endswith(f"] {10 + len(first) - 1}")
    assert journal.message("n001", "b1", [])["sequence"] == 1


def test_lines_dropped_while_they_are_on_their_way_are_not_called_lost() -> None:
    journal = Journal("stage1", [])
    for number in range(5000):
        journal.info(str(number))
    sent = journal.batch()
    for number in range(5000, 5000 + len(sent) + 7):
        journal.info(str(number))
    journal.taken(sent)
    following = journal.batch()
    assert following[0] == "(7 lines lost: the head was away for too long)"
    assert following[1].endswith(f"] {len(sent) + 7}")


def test_lines_are_printable_bounded_and_debug_is_silent_unless_asked_for() -> None:
    seen: list[str] = []
    journal = Journal("stage1", [seen.append])
    journal.debug("not this")
    journal.info("a\x1b[31mb\x00" + "x" * 5000)
    assert len(seen) == 1
    assert "\x1b" not in seen[0]
    assert len(seen[0]) == 2000
    Journal("stage1", [seen.append], verbose=True).debug("this")
    assert seen[1].endswith("this")


async def test_a_secret_is_in_no_line_and_in_no_event() -> None:
    seen: list[str] = []
    journal = Journal("stage1", [seen.append], verbose=True, secrets=["secret-token", "secret-token-longer"])
    link, line = FakeLink(), timeline(journal)
    journal.info("root=x shoal.token=secret-token-longer quiet\nsecret-token")
    journal.debug("Traceback: ValueError: secret-token")
    line.event(Stage.STAGE1_BUS, status="failed", reason="'secret-token' is no good")
    assert "secret" not in str(line.rest())
    await line.drain(link, 1.0)
    assert "secret" not in "".join([*seen, *link.lines, str(link.stored)])
    assert seen[0].endswith("root=x shoal.token=… quiet")
    assert link.stored[0][1]["reason"] == "'…' is no good"


def test_reasons_are_for_people() -> None:
    assert explain(ExceptionGroup("g", [Unavailable("the bus is away")])) == "the bus is away"
    assert explain(KeyError("x")) == "KeyError: 'x'"
