"""What a change did, or would do, field by field, as lines for people."""

import json
from collections.abc import Sequence

import click

from shoal_cli.terminal import safe
from shoal_model.messages import FieldChange, RecordChange

_SIGNS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}


def lines(changes: Sequence[RecordChange]) -> list[str]:
    """Each record with its fields: `+ node n001`, `    address: 10.77.0.11`, `    boot.loader: pxelinux → ipxe`."""
    result: list[str] = []
    for change in changes:
        sign, colour = _SIGNS.get(change.what, ("?", "white"))
        result.append(click.style(f"{sign} {change.kind} {safe(change.name)}", fg=colour))
        if change.what != "removed":
            result.extend(f"    {_field(field)}" for field in change.fields)
    return result


def summary(changes: Sequence[RecordChange], *, dry_run: bool, revision: int) -> str:
    """One line: `2 records added, 1 changed (revision 7)`, or that nothing changes."""
    if not changes:
        return "nothing to change: the cluster is already so"
    counts = [(what, sum(1 for change in changes if change.what == what)) for what in _SIGNS]
    told = [f"{count} {what}" for what, count in counts if count]
    told[0] = told[0].replace(" ", " record " if told[0].startswith("1 ") else " records ", 1)
    return f"{', '.join(told)} (dry run: nothing stored)" if dry_run else f"{', '.join(told)} (revision {revision})"


def removed(changes: Sequence[RecordChange]) -> list[str]:
    """The records that are taken away, as `node n009`."""
    return [f"{change.kind} {change.name}" for change in changes if change.what == "removed"]


def _field(field: FieldChange) -> str:
    name = safe(field.field)
    if field.before is None:
        return f"{name}: {_value(field.after)}"
    return f"{name}: {_value(field.before)} → {_value(field.after)}"


def _value(value: object) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, str):
        return safe(value) if value and value == value.strip() else json.dumps(value)
    return safe(json.dumps(value, ensure_ascii=False, default=str))
