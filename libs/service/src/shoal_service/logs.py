"""Log lines on stderr: `2026-11-20T05:33:12.123Z info dhcp.offer node=n1 mac=…`, or JSON.

Values come from packets and files of strangers: whatever is not printable is escaped, so that no value can forge a
line or speak to a terminal.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import TextIO

import structlog

from shoal_bus import trace

_PLAIN_EXTRA = frozenset("-_.:/@+,%[]()<>~*#$!?&;|^")
_FIRST = ("timestamp", "level", "event")


def configure(level: str, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's log lines of `level` and above to `stream` (stderr)."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _as_json if as_json else render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for noisy in ("asyncio", "aiohttp.access", "nats"):
        logging.getLogger(noisy).setLevel(max(threshold, logging.WARNING))


def render(_logger: object, _method: str, event: MutableMapping[str, object]) -> str:
    """One line; a traceback follows on indented lines."""
    exception = event.pop("exception", None)
    head = [visible(str(event.pop(field, "-"))) for field in _FIRST]
    parts = [*head, *(f"{visible(name)}={_quoted(value)}" for name, value in event.items())]
    lines = [" ".join(parts)]
    if isinstance(exception, str):
        lines += [f"    {visible(line)}" for line in exception.splitlines()]
    return "\n".join(lines)


def visible(text: str) -> str:
    """The text with everything that is not printable as escapes: `\\n`, `\\x1b`, `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if text and all(c.isalnum() or c in _PLAIN_EXTRA for c in text):
        return text
    return '"' + visible(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _as_json(_logger: object, _method: str, event: MutableMapping[str, object]) -> str:
    return json.dumps(event, default=str)


def _add_trace(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    current = trace.trace_id()
    if current is not None:
        event["trace"] = current
    return event
