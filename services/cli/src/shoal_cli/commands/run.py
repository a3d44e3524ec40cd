"""`shoal exec NODES -- CMD`: a command on many nodes, equal output shown once."""

from collections.abc import Sequence
from dataclasses import dataclass

import click

from shoal_bus.api import Bus
from shoal_cli import nodesets, registry
from shoal_cli.options import examples, output, pass_session
from shoal_cli.session import Session
from shoal_cli.terminal import Format, note, out, safe, safe_lines, show_data, text_of
from shoal_model.messages import ExecReply, ExecRequest, ExecResult, ExecState
from shoal_model.subjects import Service, rpc


@dataclass(frozen=True)
class Outcome:
    """What several nodes have in common: how the command ended and what it said."""

    state: ExecState
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    error: str | None
    cut: bool


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True},
    epilog=examples("shoal exec n[001-100] -- uname -r", "shoal exec @compute --timeout 10 -- systemctl --failed"),
)
@click.argument("target", metavar="NODES")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND [ARGUMENT]...")
@click.option("--timeout", default=60.0, show_default=True, metavar="SECONDS", help="How long each node may take.")
@output
@pass_session
def execute(session: Session, target: str, command: Sequence[str], timeout: float, form: Format) -> None:
    """Run a command on nodes, in parallel.

    Nodes with the same output are shown together. No shell is involved: for one, say `sh -c '…'`. The exit status
    is 1 if the command failed on any node, or could not be run there.
    """
    if not 0 < timeout <= 3600:
        raise click.UsageError("--timeout must be more than 0 and at most 3600 seconds")

    async def body(bus: Bus) -> ExecReply:
        chosen = await registry.nodes(bus, target)
        request = ExecRequest(nodes=chosen, command=list(command), timeout=timeout, author=session.author)
        return await bus.call(rpc(Service.FLEET, "exec"), request, ExecReply, timeout=timeout + 15)

    results = session.run(body).results
    if form is Format.TABLE:
        for outcome, nodes in grouped(results):
            _show(outcome, nodes)
    else:
        show_data([_plain(result) for result in results], form)
    failed = [result.node for result in results if result.state in (ExecState.FAILED, ExecState.UNREACHABLE)]
    if failed:
        note(f"failed on {nodesets.fold(failed)} ({len(failed)} of {len(results)})")
        click.get_current_context().exit(1)


def grouped(results: Sequence[ExecResult]) -> list[tuple[Outcome, list[str]]]:
    """Nodes by equal outcome; the largest group first, failures last."""
    groups: dict[Outcome, list[str]] = {}
    for result in results:
        outcome = Outcome(result.state, result.exit_code, result.stdout, result.stderr, result.error, result.cut)
        groups.setdefault(outcome, []).append(result.node)
    good = (ExecState.SUCCESS, ExecState.ERRORS)
    return sorted(groups.items(), key=lambda item: (item[0].state not in good, -len(item[1]), item[1][0]))


def _show(outcome: Outcome, nodes: list[str]) -> None:
    ending = "" if outcome.exit_code == 0 else f": exit status {outcome.exit_code}"
    if outcome.exit_code is None:
        ending = f": {safe(outcome.error or outcome.state)}"
    good = outcome.state in (ExecState.SUCCESS, ExecState.ERRORS)
    count = f" ({len(nodes)})" if len(nodes) > 1 else ""
    out(click.style(f"--- {nodesets.fold(nodes)}{count}{ending}", fg="green" if good else "red", bold=True))
    for text in safe_lines(text_of(outcome.stdout)):
        out(text)
    for text in safe_lines(text_of(outcome.stderr)):
        out(click.style(text, fg="yellow"))
    if outcome.cut:
        note(f"the output of {nodesets.fold(nodes)} was too long for one reply: its end is missing")


def _plain(result: ExecResult) -> dict[str, object]:
    return {
        "node": result.node,
        "state": str(result.state),
        "exit_code": result.exit_code,
        "stdout": text_of(result.stdout),
        "stderr": text_of(result.stderr),
        "error": result.error,
        "cut": result.cut,
    }
