"""Numbers and texts of what nodes send: whatever passes fits into the next message."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from shoal_bus import codec
from shoal_model.messages import Heartbeat, JoinRequest, LeaveRequest, LogLines, MachineSeen, NodeExecReply

AT = datetime(2026, 1, 1, tzinfo=UTC)
SAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    Heartbeat: {
        "node": "n001",
        "boot": "b" * 16,
        "at": AT,
        "uptime": 1,
        "load": 0.5,
        "memory_total": 2**40,
        "memory_available": 0,
    },
    NodeExecReply: {"exit_code": -9, "stdout": b"", "stderr": b"", "error": "e" * 4000},
    MachineSeen: {"mac": "02:00:00:00:00:01", "at": AT, "architecture": 0xFFFF},
    LogLines: {"node": "n001", "boot": "b", "stage": "execd", "sequence": 2**63 - 1, "lines": []},
    JoinRequest: {"boot": "b", "image": "0" * 64, "address": "10.0.0.1", "missing": 0},
    LeaveRequest: {"boot": "b", "session": 2**32 - 1, "complete": True},
}
NUMBERS = [
    (Heartbeat, "uptime"),
    (Heartbeat, "load"),
    (Heartbeat, "memory_total"),
    (Heartbeat, "memory_available"),
    (NodeExecReply, "exit_code"),
    (MachineSeen, "architecture"),
    (LogLines, "sequence"),
    (JoinRequest, "missing"),
    (LeaveRequest, "session"),
]


@pytest.mark.parametrize("kind", SAMPLES)
def test_what_nodes_send_is_taken_and_can_be_sent_on(kind: type[BaseModel]) -> None:
    message = kind.model_validate(SAMPLES[kind])
    assert codec.decode(codec.encode(message), kind) == message


@pytest.mark.parametrize("value", ["7", "9" * 400, 2**64 - 1, -(2**63), float("inf"), float("nan"), True])
@pytest.mark.parametrize(("kind", "field"), NUMBERS)
def test_no_number_but_one_that_can_be_sent_on(kind: type[BaseModel], field: str, value: object) -> None:
    if (kind, value) == (Heartbeat, 2**64 - 1) and field in ("uptime", "load"):
        assert codec.encode(kind.model_validate({**SAMPLES[kind], field: value}))
        return
    with pytest.raises(ValidationError, match=field):
        kind.model_validate({**SAMPLES[kind], field: value})


@pytest.mark.parametrize(("kind", "field"), [(NodeExecReply, "error"), (Heartbeat, "boot")])
def test_no_text_without_end(kind: type[BaseModel], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        kind.model_validate({**SAMPLES[kind], field: "x" * 4001})
