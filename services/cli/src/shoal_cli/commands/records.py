"""`shoal network|image|template|… list|show|add|set|rm`: one mechanism for every kind of record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from shoal_bus.api import Bus
from shoal_bus.errors import NotFound
from shoal_cli import additions, effective, fields, nodesets, registry
from shoal_cli.options import dry_run, examples, output, pass_session, yes
from shoal_cli.releases import READERS, Release
from shoal_cli.session import Session
from shoal_cli.terminal import Format, plain, safe, show_data, show_table
from shoal_model.messages import ChangeReply, ChangeRequest, Operation, RecordsReply
from shoal_model.records import Kind


@dataclass(frozen=True)
class Noun:
    """A kind of record on the command line: the columns of its list, and examples of how it is added and set."""

    kind: Kind
    columns: tuple[str, ...]
    help: str
    add: str
    set: str
    more: tuple[str, ...] = ()


_ADD_NODES = (
    "Add nodes. Of several, the first gets `address`, the others count up from there, and `mac` lists one for each, "
    "with commas. All are added by one change, or none."
)

NOUNS = (
    Noun(
        Kind.NETWORK,
        ("cidr", "boot", "head", "gateway", "nameservers", "domain"),
        "Networks of the cluster; exactly one is the boot network.",
        "boot cidr=10.77.0.0/24 head=10.77.0.1 boot=true",
        "boot gateway=10.77.0.254 nameservers=[10.77.0.1]",
    ),
    Noun(
        Kind.IMAGE,
        ("flavor", "version", "modules", "description"),
        "Node images, as they are to be; building is `shoal image build`.",
        "compute flavor=bookworm version=1.0",
        'compute description="all nodes"',
    ),
    Noun(
        Kind.TEMPLATE,
        ("image", "boot", "rootfs", "properties", "description"),
        "Host templates: values for every node that uses one.",
        "compute image=compute boot.parameters='console=ttyS0'",
        "compute rootfs=[motd] properties.rack=r1",
    ),
    Noun(
        Kind.BOOT_CONFIG,
        ("image", "loader", "parameters", "description"),
        "Named ways to boot, shared by nodes and templates through `boot.config`.",
        "verbose parameters='debug console=ttyS0'",
        "verbose loader=ipxe",
    ),
    Noun(
        Kind.PROPERTY,
        ("values", "description"),
        "Generic properties: what they mean, and which values they may have.",
        'rack description="where it stands" values=[r1, r2]',
        "rack values=[r1, r2, r3]",
    ),
    Noun(
        Kind.ROOTFS,
        ("description",),
        "Root FS customizations: trees of files for nodes.",
        'motd description="greeting"',
        'motd description="a better greeting"',
    ),
    Noun(
        Kind.NODE,
        ("name", "address", "mac", "template", "image", "description"),
        "The machines of the cluster. Sets are written as ClusterShell writes them: n[001-100], @template, a!b, a&b.",
        "n001 mac=52:54:00:77:00:11 address=10.77.0.11 template=compute",
        "n[001-100]!n017 template=gpu boot.loader=",
        ("shoal node add n[003-004] mac=52:54:00:77:00:13,52:54:00:77:00:14 address=10.77.0.13 template=compute",),
    ),
)


def group(noun: Noun) -> click.Group:
    """The command group of a kind of record."""
    group_ = click.Group(str(noun.kind), help=noun.help)
    for command in (_list(noun), _show(noun), _add(noun), _set(noun), _remove(noun)):
        group_.add_command(command)
    return group_


def _target(noun: Noun) -> str:
    return "NODES" if noun.kind is Kind.NODE else "NAME"


def _list(noun: Noun) -> click.Command:
    @click.command("list", help=f"List records of kind {noun.kind}.")
    @click.argument("target", metavar=f"[{_target(noun)}]", required=False)
    @output
    @pass_session
    def command(session: Session, target: str | None, form: Format) -> None:
        async def body(bus: Bus) -> tuple[dict[str, dict[str, Any]], dict[str, Release]]:
            known = await registry.records(bus, noun.kind)
            found = {name: known.records[name] for name in await _named(bus, noun, target, known)}
            return await _shown(bus, noun, found, form), await _releases(bus, noun, found)

        found, made = session.run(body)
        if form is not Format.TABLE:
            show_data({name: _with_release(record, made.get(name)) for name, record in found.items()}, form)
            return
        more = READERS[noun.kind].columns if noun.kind in READERS else ()
        headers = [str(noun.kind), *("host name" if c == "name" else c for c in noun.columns), *more]
        rows = [[name, *(_cell(name, record, c) for c in noun.columns)] for name, record in found.items()]
        show_table(headers, [[*row, *(made[row[0]].cells if row[0] in made else ())] for row in rows])

    return command


def _show(noun: Noun) -> click.Command:
    @click.command("show", help=f"Show one record of kind {noun.kind}, field by field.")
    @click.argument("name")
    @output
    @pass_session
    def command(session: Session, name: str, form: Format) -> None:
        async def body(bus: Bus) -> dict[str, Any]:
            found = (await registry.records(bus, noun.kind, registry.named(name))).records
            return _with_release(found[name], (await _releases(bus, noun, found)).get(name))

        found = session.run(body)
        if form is Format.TABLE:
            show_table(["field", "value"], [[safe(k), plain(v)] for k, v in fields.flatten(found).items()])
        else:
            show_data(found, form)

    return command


def _add(noun: Noun) -> click.Command:
    @click.command(
        "add",
        help=_ADD_NODES if noun.kind is Kind.NODE else "Add a record.",
        epilog=examples(f"shoal {noun.kind} add {noun.add}", *noun.more),
        no_args_is_help=True,
    )
    @click.argument("target", metavar=_target(noun))
    @click.argument("assignments", nargs=-1, metavar="FIELD=VALUE...")
    @dry_run
    @pass_session
    def command(session: Session, target: str, assignments: Sequence[str], dry_run: bool) -> None:
        chosen = registry.expand(target) if noun.kind is Kind.NODE else [registry.named(target)]
        made = _added(chosen, _parsed(assignments))

        def edit(now: RecordsReply) -> list[Operation]:
            taken = [name for name in chosen if name in now.records]
            if taken:
                exist = f"{nodesets.fold(taken)} exist{'s' if len(taken) == 1 else ''}"
                raise click.UsageError(f"{noun.kind} {exist} already: change it with `shoal {noun.kind} set`")
            return [registry.put(noun.kind, name, record) for name, record in zip(chosen, made, strict=True)]

        reply = session.run(lambda bus: registry.read_and_change(bus, noun.kind, session.author, edit, dry_run=dry_run))
        registry.report(reply, dry_run=dry_run)

    return command


def _set(noun: Noun) -> click.Command:
    @click.command(
        "set",
        help="Set fields; FIELD= takes one away. Dotted fields go down: boot.parameters=…",
        epilog=examples(f"shoal {noun.kind} set {noun.set}"),
        no_args_is_help=True,
    )
    @click.argument("target", metavar=_target(noun))
    @click.argument("assignments", nargs=-1, required=True, metavar="FIELD=VALUE...")
    @dry_run
    @pass_session
    def command(session: Session, target: str, assignments: Sequence[str], dry_run: bool) -> None:
        wanted = _parsed(assignments)

        async def body(bus: Bus) -> ChangeReply:
            chosen = await _named(bus, noun, target)

            def edit(now: RecordsReply) -> list[Operation]:
                return [registry.put(noun.kind, n, _merged(_known(noun, now, n), wanted)) for n in chosen]

            return await registry.read_and_change(bus, noun.kind, session.author, edit, dry_run=dry_run)

        registry.report(session.run(body), dry_run=dry_run)

    return command


def _remove(noun: Noun) -> click.Command:
    @click.command("rm", help="Remove records. What is still in use stays, and the registry says by whom.")
    @click.argument("target", metavar=_target(noun))
    @dry_run
    @yes
    @pass_session
    def command(session: Session, target: str, dry_run: bool, yes: bool) -> None:
        async def body(bus: Bus) -> ChangeReply | None:
            chosen = await _named(bus, noun, target)
            request = ChangeRequest(
                operations=[registry.delete(noun.kind, name) for name in chosen], author=session.author, dry_run=True
            )
            if dry_run:
                return await registry.change(bus, request)
            if await registry.confirm_removals(lambda: registry.change(bus, request), yes=yes) is None:
                return None
            return await registry.change(bus, request.model_copy(update={"dry_run": False}))

        reply = session.run(body)
        if reply is None:
            raise click.Abort
        registry.report(reply, dry_run=dry_run)

    return command


@click.group("global", help="The global template: values for every node that nothing nearer sets.")
def global_group() -> None:
    """Its one record has one name, so no name is given."""


@global_group.command("show")
@output
@pass_session
def global_show(session: Session, form: Format) -> None:
    """Show the global template, field by field."""
    found = session.run(lambda bus: registry.records(bus, Kind.GLOBAL)).records.get("default", {})
    if form is Format.TABLE:
        show_table(["field", "value"], [[safe(k), plain(v)] for k, v in fields.flatten(found).items()])
    else:
        show_data(found, form)


@global_group.command("set", epilog=examples("shoal global set image=compute boot.parameters='console=ttyS0'"))
@click.argument("assignments", nargs=-1, required=True, metavar="FIELD=VALUE...")
@dry_run
@pass_session
def global_set(session: Session, assignments: Sequence[str], dry_run: bool) -> None:
    """Set fields of the global template; FIELD= takes one away."""
    wanted = _parsed(assignments)

    def edit(now: RecordsReply) -> list[Operation]:
        return [registry.put(Kind.GLOBAL, "default", _merged(now.records.get("default", {}), wanted))]

    reply = session.run(lambda bus: registry.read_and_change(bus, Kind.GLOBAL, session.author, edit, dry_run=dry_run))
    registry.report(reply, dry_run=dry_run)


async def _named(bus: Bus, noun: Noun, target: str | None, known: RecordsReply | None = None) -> list[str]:
    """The records a target names: a node set, or one name; all if it is None."""
    if noun.kind is Kind.NODE:
        return await registry.nodes(bus, target, known)
    known = known or await registry.records(bus, noun.kind)
    if target is None:
        return sorted(known.records)
    if registry.named(target) not in known.records:
        raise NotFound(f"there is no {noun.kind} {target!r}")
    return [target]


async def _releases(bus: Bus, noun: Noun, found: dict[str, dict[str, Any]]) -> dict[str, Release]:
    """What was made of these records; nothing for kinds of which nothing is made."""
    return await READERS[noun.kind].read(bus, found) if noun.kind in READERS else {}


async def _shown(bus: Bus, noun: Noun, found: dict[str, dict[str, Any]], form: Format) -> dict[str, dict[str, Any]]:
    """Records as a list shows them: for people, nodes with the image that they get, whichever level says so."""
    if noun.kind is not Kind.NODE or form is not Format.TABLE:
        return found
    images = await effective.images(bus, found)
    return {name: {**record, "image": images.get(name)} for name, record in found.items()}


def _with_release(record: dict[str, Any], release: Release | None) -> dict[str, Any]:
    return record if release is None else {**record, "release": release.data}


def _known(noun: Noun, now: RecordsReply, name: str) -> dict[str, Any]:
    if name not in now.records:
        raise NotFound(f"{noun.kind} {name} was removed in the meantime")
    return now.records[name]


def _parsed(assignments: Sequence[str]) -> dict[str, Any]:
    try:
        return fields.parse(assignments)
    except fields.FieldError as error:
        raise click.UsageError(safe(str(error))) from error


def _added(chosen: Sequence[str], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return additions.records(chosen, wanted)
    except fields.FieldError as error:
        raise click.UsageError(safe(str(error))) from error


def _merged(record: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return fields.merge(record, wanted)
    except fields.FieldError as error:
        raise click.UsageError(safe(str(error))) from error


def _cell(name: str, record: dict[str, Any], column: str) -> str:
    value = record.get(column)
    if column == "name" and value is None:
        return name
    if column == "modules" and value is None:
        return "core"
    return " ".join(f"{k}={plain(v)}" for k, v in value.items()) if isinstance(value, dict) else plain(value)
