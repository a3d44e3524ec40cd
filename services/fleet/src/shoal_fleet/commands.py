"""Remote commands: what the nodes' answers come to, and how much of them fits into one message. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shoal_bus.errors import BusError, Unavailable
from shoal_model.messages import ExecRequest, ExecResult, ExecState, NodeExecReply, NodeState, NodeStatus
from shoal_model.subjects import node_topic

OUTPUT_BUDGET = 768 << 10
"""Bytes of output that one reply carries, of all nodes together."""
ARRIVING = 32 << 20
"""Bytes of output that nodes which answer at the same moment may send together: half of what the bus server keeps for
a reader before it cuts it off.
"""
MOST, LEAST = 256 << 10, 2 << 10
"""Bounds of what a node may send of each stream, however few or many nodes there are."""
HISTORY_OUTPUT = 32 << 10
"""Bytes of output up to which the history keeps it."""
ERROR_TEXT = 1000
"""Characters that a result tells of an error: thousands of nodes may all have one, and share a message."""
HISTORY = 500
"""Commands in the history."""
HISTORY_PREFIX = "exec."


def allowance(nodes: int) -> int:
    """Bytes of each of its two streams that one of so many nodes may send."""
    return max(LEAST, min(MOST, ARRIVING // 2 // max(nodes, 1)))


def result(node: str, reply: NodeExecReply, allowed: int = MOST) -> ExecResult:
    """How a command ended on a node that was let send so many bytes of each stream: one as long may miss its end."""
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
        error=reply.error and reply.error[:ERROR_TEXT],
        cut=max(len(reply.stdout), len(reply.stderr)) >= allowed,
    )


def failure(node: str, error: BusError) -> ExecResult:
    """A node that gave no answer, or could not be understood. Subjects are nothing to tell people of."""
    told = str(error).removeprefix(f"{node_topic(node, 'exec')} ").replace(node_topic(node, "exec"), "it")
    state = ExecState.UNREACHABLE if isinstance(error, Unavailable) else ExecState.FAILED
    return ExecResult(node=node, state=state, exit_code=None, stdout=b"", stderr=b"", error=told[:ERROR_TEXT])


def absent(status: NodeStatus) -> ExecResult:
    """A node on which nobody takes commands now, and what is known of why."""
    since = f" since {status.since.astimezone(UTC):%F %T} UTC" if status.since is not None else ""
    stage = f" (stage {status.stage})" if status.stage is not None else ""
    why = {
        NodeState.UNKNOWN: "not up: it never booted",
        NodeState.BOOTING: f"not up: booting{stage}",
        NodeState.FAILED: f"not up: its boot failed{stage}; `shoal boot why` tells more",
        NodeState.LOST: f"not up: lost{since}",
        NodeState.UP: "it was up a moment ago, and takes no commands now: see `shoal node status`, or try again",
    }[status.state]
    return ExecResult(node=status.node, state=ExecState.UNREACHABLE, exit_code=None, stdout=b"", stderr=b"", error=why)


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


class Gathered:
    """Results as they come. What they hold of output stays near the budget: a long one is cut as soon as it is certain
    that it will be, since those still to come can only make the share smaller.
    """

    def __init__(self, budget: int = OUTPUT_BUDGET) -> None:
        self._budget = budget
        self._results: list[ExecResult] = []
        self.held = 0

    def add(self, one: ExecResult) -> None:
        """Take a result."""
        self._results.append(one)
        self.held += _output(one)
        if self.held > 2 * self._budget:
            self._fit()

    def of(self, nodes: Sequence[str]) -> list[ExecResult]:
        """The results of all these nodes, in this order, within the budget."""
        self._fit()
        found = {one.node: one for one in self._results}
        return [found[node] for node in nodes]

    def _fit(self) -> None:
        self._results = fitted(self._results, self._budget)
        self.held = sum(map(_output, self._results))


def _output(one: ExecResult) -> int:
    return len(one.stdout) + len(one.stderr)


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
    keep = sum(map(_output, results)) <= HISTORY_OUTPUT
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
