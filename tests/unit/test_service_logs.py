"""Log lines: their shape, and that no value can forge one."""

import contextvars
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from shoal_bus import trace
from shoal_service import logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", as_json=False, stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_event_with_fields(lines: io.StringIO) -> None:
    log = structlog.get_logger("shoal.dhcp")
    log.info("dhcp.offer", node="n1", mac="52:54:00:77:00:11", ip="10.77.0.11", names=["a", "b"], count=3, none=None)
    log.debug("dhcp.detail")
    stamp, rest = lines.getvalue().split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", stamp)
    assert rest == "info dhcp.offer node=n1 mac=52:54:00:77:00:11 ip=10.77.0.11 names=a,b count=3 none=None\n"


def test_the_standard_librarys_lines_look_the_same(lines: io.StringIO) -> None:
    logging.getLogger("shoal.bus").warning("bus.lost server=%s", "nats://\x1b[31mx\n")
    assert lines.getvalue().endswith(" warning bus.lost server=nats://\\x1b[31mx\\n\n")


def test_a_traceback_is_indented(lines: io.StringIO) -> None:
    try:
        raise ValueError("no\nfresh line \x1b[0m")
    except ValueError:
        structlog.get_logger().exception("it.failed", node="n1")
    first, *rest = lines.getvalue().splitlines()
    assert first.endswith(" error it.failed node=n1")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-2:] == ["    ValueError: no", "    fresh line \\x1b[0m"]


def test_a_line_carries_the_trace(lines: io.StringIO) -> None:
    def log() -> None:
        trace.enter("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
        structlog.get_logger().info("it.happened")

    contextvars.copy_context().run(log)
    assert lines.getvalue().endswith(" info it.happened trace=0123456789abcdef0123456789abcdef\n")


def test_json(lines: io.StringIO) -> None:
    logs.configure("info", as_json=True, stream=lines)
    structlog.get_logger().info("it.happened", node="n1\n", data=b"\xff")
    event = json.loads(lines.getvalue())
    assert (event["event"], event["node"], event["level"]) == ("it.happened", "n1\n", "info")


@given(st.text(), st.text(min_size=1))
def test_a_value_stays_one_value_on_one_line(event: str, value: str) -> None:
    line = logs.render(None, "info", {"timestamp": "T", "level": "info", "event": event, "node": value, "last": "x"})
    assert line.isprintable()
    assert line.endswith(" last=x")
    found = re.search(r' node=("(?:[^"\\]|\\.)*"|\S+) last=x$', line)
    assert found is not None
    assert found[1].startswith('"') or found[1] == value


@given(st.text())
def test_visible_text_is_printable_and_plain_text_stays(text: str) -> None:
    shown = logs.visible(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()
