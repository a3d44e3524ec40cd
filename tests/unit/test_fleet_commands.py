"""Results of remote commands."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_bus.codec import pack
from shoal_bus.errors import BusError, Internal, Invalid, Unavailable
from shoal_fleet import commands
from shoal_model.messages import ExecRequest, ExecResult, ExecState, NodeExecReply, NodeStatus

CASES = [
    (0, b"", ExecState.SUCCESS),
    (0, b"warning", ExecState.ERRORS),
    (1, b"", ExecState.FAILED),
    (None, b"", ExecState.FAILED),
]


@pytest.mark.parametrize(("code", "stderr", "state"), CASES)
def test_how_a_command_ended(code: int | None, stderr: bytes, state: ExecState) -> None:
    got = commands.result("n001", NodeExecReply(exit_code=code, stdout=b"out", stderr=stderr, error="why"))
    assert (got.state, got.exit_code, got.stdout, got.error) == (state, code, b"out", "why")


@pytest.mark.parametrize(
    ("error", "state"), [(Unavailable("no"), ExecState.UNREACHABLE), (Internal("bad"), ExecState.FAILED)]
)
def test_a_node_without_an_answer(error: BusError, state: ExecState) -> None:
    got = commands.failure("n001", error)
    assert (got.state, got.exit_code, got.error) == (state, None, str(error))


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"state": "unknown"}, "not up: it never booted"),
        ({"state": "booting", "stage": "image.progress"}, "not up: booting (stage image.progress)"),
        ({"state": "booting"}, "not up: booting"),
        ({"state": "failed", "stage": "union.mounted"}, "not up: its boot failed (stage union.mounted); "),
        ({"state": "lost", "since": datetime(2026, 11, 20, 5, 0, tzinfo=UTC)}, "lost since 2026-11-20 05:00:00 UTC"),
        ({"state": "up"}, "it was up a moment ago"),
    ],
)
def test_a_node_on_which_nobody_listens_is_told_by_its_state(status: dict[str, object], told: str) -> None:
    got = commands.absent(NodeStatus.model_validate({"node": "n001", **status}))
    assert (got.node, got.state, got.exit_code) == ("n001", ExecState.UNREACHABLE, None)
    assert told in (got.error or "")


def test_a_node_that_went_away_in_the_middle_is_told_without_the_subject() -> None:
    late = Unavailable("node.n001.exec did not answer within 7 s; it may still be carried out")
    assert commands.failure("n001", late).error == "did not answer within 7 s; it may still be carried out"
    broken = Unavailable("the connection broke before node.n001.exec was answered")
    assert commands.failure("n001", broken).error == "the connection broke before it was answered"


def results(*sizes: tuple[int, int]) -> list[ExecResult]:
    return [
        ExecResult(node=f"n{number}", state=ExecState.SUCCESS, exit_code=0, stdout=b"o" * out, stderr=b"e" * err)
        for number, (out, err) in enumerate(sizes)
    ]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=20), st.integers(100, 5000))
def test_outputs_keep_to_the_budget_and_short_ones_stay_whole(sizes: list[tuple[int, int]], budget: int) -> None:
    before = results(*sizes)
    after = commands.fitted(before, budget)
    assert sum(len(one.stdout) + len(one.stderr) for one in after) <= budget
    longest = max((max(len(one.stdout), len(one.stderr)) for one in after), default=0)
    for old, new in zip(before, after, strict=True):
        assert new.cut is ((old.stdout, old.stderr) != (new.stdout, new.stderr))
        for was, now in ((old.stdout, new.stdout), (old.stderr, new.stderr)):
            assert was.startswith(now)
            assert now == was or len(now) == longest


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=30), st.integers(100, 5000))
def test_gathered_one_by_one_they_are_what_they_are_together(sizes: list[tuple[int, int]], budget: int) -> None:
    all_, gathered = results(*sizes), commands.Gathered(budget)
    for one in reversed(all_):
        gathered.add(one)
        assert gathered.held <= 2 * budget
    after, wanted = gathered.of([one.node for one in all_]), commands.fitted(all_, budget)
    assert [one.node for one in after] == [one.node for one in wanted]
    assert sum(len(one.stdout) + len(one.stderr) for one in after) <= budget
    for got, want, whole in zip(after, wanted, all_, strict=True):
        assert whole.stdout.startswith(got.stdout)
        assert abs(len(got.stdout) - len(want.stdout)) <= len(sizes)  # what does not divide goes here or there
        assert got.cut is ((whole.stdout, whole.stderr) != (got.stdout, got.stderr))


@pytest.mark.parametrize(("nodes", "bytes_"), [(0, 262144), (1, 262144), (64, 262144), (1000, 16777), (10**6, 2048)])
def test_many_nodes_may_send_less_each(nodes: int, bytes_: int) -> None:
    assert commands.allowance(nodes) == bytes_


def test_a_stream_that_fills_its_allowance_is_marked_as_cut() -> None:
    reply = NodeExecReply(exit_code=0, stdout=b"x" * 10, stderr=b"")
    assert [commands.result("n1", reply, allowed).cut for allowed in (10, 11)] == [True, False]


def test_the_history_keeps_small_outputs_alone() -> None:
    request = ExecRequest(nodes=["n0"], command=["hostname"], author="ada")
    at = datetime(2026, 11, 20, tzinfo=UTC)
    small = commands.history("x", request, results((10, 0)), at)
    large = commands.history("x", request, results((40_000, 0)), at)
    assert small["results"][0]["stdout"] == b"o" * 10
    assert "stdout" not in large["results"][0]
    assert large["author"] == "ada"
    assert len(pack(commands.history("x", request, results(*[(0, 0)] * 10_000), at))) < 1 << 20


def test_an_error_without_end_is_cut() -> None:
    reply = NodeExecReply(exit_code=None, stdout=b"", stderr=b"", error="e" * 4000)
    assert commands.result("n001", reply).error == "e" * 1000
    assert commands.failure("n001", Invalid("e" * 100_000)).error == "e" * 1000
