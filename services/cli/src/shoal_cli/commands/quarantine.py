"""`shoal quarantine`: who wanted to be a node and was not let in, and what an operator decides about it."""

import click

from shoal_cli import registry
from shoal_cli.options import examples, output, pass_session
from shoal_cli.session import Session
from shoal_cli.terminal import Format, out, plain, show_data, show_table
from shoal_model.messages import DecideRequest, Empty, Party, Quarantined, QuarantineReply
from shoal_model.subjects import Service, rpc

KEY_SHOWN = 12
"""Characters of a key in a table: enough to tell two apart, and to name one with --key."""

_which = click.option(
    "--key", default="", metavar="PREFIX", help="Beginning of the attempt's key, if the node has several attempts."
)


@click.group()
def quarantine() -> None:
    """Attempts to connect as a node that were not let in."""


@quarantine.command("list", epilog=examples("shoal quarantine list", "shoal quarantine list -o json"))
@output
@pass_session
def list_(session: Session, form: Format) -> None:
    """List what waits for a decision, and what was decided lately; the latest attempt last.

    BOUND is who speaks for the node meanwhile, and since when.
    """
    entries = session.run(lambda bus: bus.call(rpc(Service.AUTH, "quarantine"), Empty(), QuarantineReply)).entries
    if form is not Format.TABLE:
        show_data([entry.model_dump(mode="json", exclude_none=True) for entry in entries], form)
        return
    headers = ["node", "state", "address", "key", "since", "attempts", "bound", "reason"]
    show_table(headers, [_row(entry) for entry in entries])


def _row(entry: Quarantined) -> list[str]:
    attempt = entry.attempt
    return [
        entry.node,
        entry.state,
        attempt.address,
        attempt.key[:KEY_SHOWN],
        plain(attempt.at),
        str(entry.attempts),
        _told(entry.bound),
        plain(entry.reason),
    ]


def _told(party: Party | None) -> str:
    return "-" if party is None else f"{party.address} since {plain(party.at)}"


@quarantine.command(epilog=examples("shoal quarantine admit n017", "shoal quarantine admit n017 --key UDXA2BVG"))
@click.argument("node")
@_which
@pass_session
def admit(session: Session, node: str, key: str) -> None:
    """Let an attempt in, in the place of whoever speaks for NODE now.

    Be sure that it is the node: it gets the node's secrets. It comes in when it tries again.
    """
    entry = _decide(session, node, key, admit=True)
    place = "" if entry.bound is None else f", in the place of {entry.bound.key[:KEY_SHOWN]} from {entry.bound.address}"
    out(f"{entry.node}: admitted {entry.attempt.key[:KEY_SHOWN]} from {entry.attempt.address}{place}")


@quarantine.command(epilog=examples("shoal quarantine reject n017", "shoal quarantine reject n017 --key UDXA2BVG"))
@click.argument("node")
@_which
@pass_session
def reject(session: Session, node: str, key: str) -> None:
    """Refuse an attempt for good. Whoever speaks for NODE now goes on."""
    entry = _decide(session, node, key, admit=False)
    out(f"{entry.node}: rejected {entry.attempt.key[:KEY_SHOWN]} from {entry.attempt.address}")


def _decide(session: Session, node: str, key: str, *, admit: bool) -> Quarantined:
    request = DecideRequest(node=registry.named(node), key=key, admit=admit, author=session.author)
    return session.run(lambda bus: bus.call(rpc(Service.AUTH, "decide"), request, Quarantined))
