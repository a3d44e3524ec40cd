"""The trace that the running task belongs to: a `traceparent` (w3.org/TR/trace-context). Standard library alone."""

import re
import secrets
from contextvars import ContextVar

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str | None] = ContextVar("shoal_trace", default=None)


def enter(traceparent: str | None) -> None:
    """Make the running task part of a caller's trace; anything that is no traceparent begins a new one."""
    _current.set(traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else _new(secrets.token_hex(16)))


def header() -> str:
    """The traceparent to send along: the running task's trace, else a new one, with a span of its own."""
    current = _current.get()
    return _new(current.split("-")[1] if current else secrets.token_hex(16))


def trace_id() -> str | None:
    """The 32 hex digits that the running task's log lines carry, or None outside of any trace."""
    current = _current.get()
    return current.split("-")[1] if current else None


def _new(trace: str) -> str:
    return f"00-{trace}-{secrets.token_hex(8)}-01"
