"""`shoal apply` and `shoal export`: the whole configuration as one YAML document."""

import sys
from pathlib import Path
from typing import Any

import click

from shoal_bus.api import Bus
from shoal_cli import documents, registry
from shoal_cli.options import dry_run, examples, output, pass_session, yes
from shoal_cli.session import Failure, Session
from shoal_cli.terminal import Format, out, show_data, to_yaml
from shoal_model.messages import ApplyRequest, ChangeReply, Empty, ExportReply
from shoal_model.subjects import Service, rpc

_MAX_DOCUMENT = 64 << 20
"""Bytes of a file, characters of standard input; 10,000 nodes fill some five million."""


def read(source: str) -> dict[str, Any]:
    """The document in a file, or on stdin for `-`. Raises Failure, naming file and line; also for an empty one, which
    comes of a command that failed before a pipe more often than of a wish for nothing.
    """
    try:
        return documents.parse_map(_text(source))
    except OSError as error:
        raise Failure(f"cannot read {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{source} is not UTF-8 text (byte {error.start})") from error
    except documents.DocumentError as error:
        raise Failure(f"{'standard input' if source == '-' else source}: {error}") from error


def _text(source: str) -> str:
    """What the source holds, unless that is too much: a device might never end."""
    if source == "-":
        data: str | bytes = sys.stdin.read(_MAX_DOCUMENT + 1)
    else:
        with Path(source).open("rb") as file:
            data = file.read(_MAX_DOCUMENT + 1)
    if len(data) > _MAX_DOCUMENT:
        raise Failure(f"{source} holds more than {_MAX_DOCUMENT >> 20} MiB: that is no configuration")
    return data.decode("utf-8") if isinstance(data, bytes) else data


@click.command(
    epilog=examples(
        "shoal apply -f cluster.yaml --dry-run",
        "shoal export > cluster.yaml; vi cluster.yaml; shoal apply -f cluster.yaml --prune",
    )
)
@click.option("-f", "--file", "source", required=True, metavar="FILE", help="YAML document; - reads standard input.")
@click.option("--prune", is_flag=True, help="Remove records that the document does not name.")
@dry_run
@yes
@pass_session
def apply(session: Session, source: str, prune: bool, dry_run: bool, yes: bool) -> None:
    """Make the cluster what a YAML document says, all of it or nothing.

    Records that the document does not name stay as they are, unless --prune is given. Prints what changed, field by
    field. Applying the same document again changes nothing.
    """
    request = ApplyRequest(document=read(source), author=session.author, dry_run=True, prune=prune)
    reply = session.run(lambda bus: _apply(bus, request, dry_run=dry_run, yes=yes))
    if reply is None:
        raise click.Abort
    registry.report(reply, dry_run=dry_run)


async def _apply(bus: Bus, request: ApplyRequest, *, dry_run: bool, yes: bool) -> ChangeReply | None:
    if dry_run:
        return await registry.apply(bus, request)
    expected = None
    if request.prune:
        seen = await registry.confirm_removals(lambda: registry.apply(bus, request), yes=yes)
        if seen is None:
            return None
        expected = seen.revision  # what was shown is what is stored, or nothing is
    return await registry.apply(bus, request.model_copy(update={"dry_run": False, "expected_revision": expected}))


@click.command(epilog=examples("shoal export > cluster.yaml", "shoal export -o json | jq .nodes"))
@output
@pass_session
def export(session: Session, form: Format) -> None:
    """Print the whole configuration, in the form that `shoal apply` takes (YAML unless -o json is given)."""
    reply = session.run(lambda bus: bus.call(rpc(Service.REGISTRY, "export"), Empty(), ExportReply, timeout=60.0))
    if form is Format.JSON:
        show_data(reply.document, form)
    else:
        out(to_yaml(reply.document).rstrip("\n"))
