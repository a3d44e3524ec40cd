"""The root of the command tree: options for every command, and all commands under their nouns."""

import os
from pathlib import Path

import click

from shoal_cli.commands import boot, cluster, images, keys, nodes, preview, quarantine, records, run, up
from shoal_cli.options import examples
from shoal_cli.session import DEFAULT_STATE, Access, Session, access, author, over_nats, tls
from shoal_model.records import Kind


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples(
        "shoal up --interface eth1",
        "shoal apply -f cluster.yaml",
        "shoal image build compute --wait",
        "shoal boot arm n[001-100]",
        "shoal boot watch n[001-100]",
        "shoal boot why n017",
        "shoal exec n[001-100] -- uptime",
    ),
)
@click.option(
    "--nats",
    envvar="SHOAL_NATS",
    metavar="URL[,URL...]",
    help="Where the bus is. Default: SHOAL_NATS, else what `shoal up` left in SHOAL_STATE (/var/lib/shoal).",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, readable=False),
    envvar="SHOAL_CA",
    metavar="FILE",
    help="The cluster's ca.crt, by which the bus is known. Default: SHOAL_CA, else as with --nats.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, readable=False),
    envvar="SHOAL_KEY",
    metavar="FILE",
    help="The seed of an operator's key, yours alone to read. Default: SHOAL_KEY, else as with --nats.",
)
@click.version_option(package_name="shoal-cli", prog_name="shoal", message="%(prog)s %(version)s")
@click.pass_context
def shoal(context: click.Context, nats: str | None, ca: Path | None, key: Path | None) -> None:
    """Shoal boots the nodes of a cluster over the network, into identical and verified systems."""
    if context.obj is None and context.invoked_subcommand not in {"up", "down"}:
        state = Path(os.environ.get("SHOAL_STATE") or DEFAULT_STATE)

        def found() -> Access:
            """The cluster: looked for when a command needs it, so that `--help` works anywhere."""
            return access(nats, ca, key, state)

        context.obj = Session(lambda: over_nats(found())(), author(), lambda: tls(found()))


def _tree() -> None:
    groups = {noun.kind: records.group(noun) for noun in records.NOUNS}
    groups[Kind.NODE].add_command(nodes.show, "show")
    groups[Kind.NODE].add_command(nodes.status)
    groups[Kind.NODE].add_command(keys.keys)
    groups[Kind.NODE].add_command(keys.revoke)
    groups[Kind.IMAGE].add_command(images.build)
    groups[Kind.ROOTFS].add_command(images.commit)
    for command in (
        *groups.values(),
        records.global_group,
        up.up,
        up.down,
        cluster.apply,
        cluster.export,
        nodes.discovered,
        images.module,
        images.session_group,
        boot.boot,
        quarantine.quarantine,
        preview.preview,
        run.execute,
    ):
        shoal.add_command(command)


_tree()
