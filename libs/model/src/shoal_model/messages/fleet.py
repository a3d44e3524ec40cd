"""Boots and nodes as they are: events, heartbeats, states, logs, remote commands."""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from shoal_model.messages.base import Count, Measure, Message
from shoal_model.records import Line, Name, Sha256
from shoal_model.subjects import Stage


class Status(StrEnum):
    """How a stage went."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


class BootEvent(Message):
    """`evt.boot.<node>.<stage>`. `reason` is for people: what went wrong, or why a fallback was taken."""

    node: Name
    stage: Stage
    at: AwareDatetime
    boot: str | None = Field(None, max_length=64, description="boot id; unknown to dhcp")
    status: Status = Status.OK
    reason: str | None = Field(None, max_length=4000)
    details: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Boot(Message):
    """One boot of a node: its events in order of time."""

    node: Name
    boot: str | None
    events: list[BootEvent]


class BootsRequest(Message):
    """`rpc.fleet.v1.boots`: the latest boot of each of these nodes; none named: of all."""

    nodes: list[Name] = Field(default_factory=list)


class BootsReply(Message):
    """See `BootsRequest`. A node that never booted is not among them."""

    boots: list[Boot]


class Heartbeat(Message):
    """`node.<node>.heartbeat`, core NATS, every few seconds from the resident execd."""

    node: Name
    boot: str = Field(max_length=64)
    at: AwareDatetime
    uptime: Measure = Field(description="seconds")
    load: Measure = Field(description="load average of one minute")
    memory_total: Count = Field(description="bytes")
    memory_available: Count = Field(description="bytes")
    image: Sha256 | None = Field(None, description="digest of the running image")
    generation: Sha256 | None = Field(None, description="generation of the options it was configured with")
    release: str = Field("", max_length=64, description="version of execd")


class NodeState(StrEnum):
    """What fleet makes of a node's heartbeats and boot events."""

    UNKNOWN = "unknown"
    BOOTING = "booting"
    FAILED = "failed"
    UP = "up"
    LOST = "lost"


class NodeStatus(Message):
    """A node as it is."""

    node: Name
    state: NodeState
    since: AwareDatetime | None = None
    stage: Stage | None = None
    heartbeat: Heartbeat | None = None


class StatusRequest(Message):
    """`rpc.fleet.v1.status`: the state of these nodes; none named: of all known ones."""

    nodes: list[Name] = Field(default_factory=list)


class StatusReply(Message):
    """See `StatusRequest`."""

    nodes: list[NodeStatus]


class LogLines(Message):
    """`evt.node.<node>.log`: lines of a stage's log, in order. A gap in `sequence` is a loss."""

    node: Name
    boot: str = Field(max_length=64)
    stage: str = Field(max_length=16, description="stage1, stage2 or execd")
    sequence: Count
    lines: list[Annotated[str, Field(max_length=8000)]] = Field(max_length=1000)


class LogRequest(Message):
    """`rpc.fleet.v1.log`: the stage logs of a node's latest boot."""

    node: Name


class LogReply(Message):
    """The log as text, its last 256 KiB at most."""

    boot: str | None
    text: str


class ExecState(StrEnum):
    """How a remote command went on one node."""

    SUCCESS = "success"
    ERRORS = "errors"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


class ExecRequest(Message):
    """`rpc.fleet.v1.exec`: run a command on nodes in parallel. `command` is an argument list, never a shell string."""

    nodes: list[Name] = Field(min_length=1)
    command: list[str] = Field(min_length=1, max_length=4096)
    timeout: float = Field(60.0, gt=0, le=3600, description="seconds for each node")
    author: Line


class NodeExec(Message):
    """`node.<node>.exec`, a request from fleet: the same command for one node."""

    id: str = Field(max_length=64)
    command: list[str] = Field(min_length=1, max_length=4096)
    timeout: float
    output: int = Field(256 << 10, ge=0, le=256 << 10, description="bytes of each stream to send back at most")


ExitCode = Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)]
"""A process's; negative: the signal that ended it."""


class NodeExecReply(Message):
    """How the command ended on the node; each stream is cut where `NodeExec` says."""

    exit_code: ExitCode | None = Field(description="None if it could not be started or ran out of time")
    stdout: bytes
    stderr: bytes
    error: str | None = Field(None, max_length=4000)


class ExecResult(Message):
    """The result on one node. `errors` is exit code 0 with something on stderr; `cut` says that the reply had no room
    for all of the output.
    """

    node: Name
    state: ExecState
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    error: str | None = None
    cut: bool = False


class ExecReply(Message):
    """See `ExecRequest`."""

    id: str
    results: list[ExecResult]
