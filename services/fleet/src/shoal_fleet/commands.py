"""Remote commands: what the nodes' answers come to, and how much of them fits into one message. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from shoal_bus.errors import BusError, Unavailable
from shoal_model.messages import ExecRequest, ExecResult, ExecState, NodeExecReply

OUTPUT_BUDGET = 768 << 10
"""Bytes of output that one reply carries, of all nodes together."""
HISTORY_OUTPUT = 32 << 10
"""Bytes of output up to which the history keeps it."""
HISTORY = 500
"""Commands in the history."""
HISTORY_PREFIX = "exec."


def result(node: str, reply: NodeExecReply) -> ExecResult:
    """How a command ended on a node."""
    if reply.exit_code is None or reply.exit_code != 0:
        state = ExecState.FAILED
    else:
        state = ExecState.ERRORS if reply.stderr else ExecState.SUCCESS
    return ExecResult(
        node=node,
        state=state,
        exit_code=reply.exit_code,
        stdout=reply.stdout,
        stderr=reply.stderr,
        error=reply.error,
    )


def failure(node: str, error: BusError) -> ExecResult:
    """A node that gave no answer, or could not be understood."""
    state = ExecState.UNREACHABLE if isinstance(error, Unavailable) else ExecState.FAILED
    return ExecResult(node=node, state=state, exit_code=None, stdout=b"", stderr=b"", error=str(error))


def fitted(results: Sequence[ExecResult], budget: int = OUTPUT_BUDGET) -> list[ExecResult]:
    """Results whose outputs together keep to the budget: short ones whole, long ones cut alike, and marked so."""
    sizes = sorted(len(output) for one in results for output in (one.stdout, one.stderr) if output)
    if sum(sizes) <= budget:
        return list(results)
    limit = _share(sizes, budget)
    return [
        one.model_copy(update={"stdout": one.stdout[:limit], "stderr": one.stderr[:limit], "cut": True})
        if max(len(one.stdout), len(one.stderr)) > limit
        else one
        for one in results
    ]


def _share(sizes: Sequence[int], budget: int) -> int:
    """The largest limit per output that keeps the sum within the budget; `sizes` ascend."""
    left = budget
    for index, size in enumerate(sizes):
        share = left // (len(sizes) - index)
        if size > share:
            return share
        left -= size
    return budget


def history(identity: str, request: ExecRequest, results: Sequence[ExecResult], at: datetime) -> dict[str, Any]:
    """What is kept of a command; its output only where it is small."""
    keep = sum(len(one.stdout) + len(one.stderr) for one in results) <= HISTORY_OUTPUT
    return {
        "id": identity,
        "author": request.author,
        "at": at,
        "command": request.command,
        "results": [
            {"node": one.node, "state": one.state.value, "exit_code": one.exit_code}
            | ({"stdout": one.stdout, "stderr": one.stderr, "error": one.error} if keep else {})
            for one in results
        ],
    }
