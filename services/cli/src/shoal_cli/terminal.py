"""Text for the operator's terminal. What comes from elsewhere never controls it: escapes are shown, not obeyed."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import click
import yaml
from rich.cells import cell_len

_GAP = "  "


class Format(StrEnum):
    """How a list or a record is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def safe(text: str) -> str:
    """`text` on one line with everything that is not printable as `\\x1b`, `\\n`, `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)


def safe_lines(text: str) -> list[str]:
    """`text` as lines, each safe; tabs stay tabs, an end of line of either kind ends a line."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return ["\t".join(safe(part) for part in line.removesuffix("\r").split("\t")) for line in lines]


def local(at: datetime) -> datetime:
    """A time where the reader is; as it came if it lies at the very end of the calendar, where no other zone has it."""
    try:
        return at.astimezone()
    except OverflowError:
        return at


def text_of(output: bytes) -> str:
    """Bytes that ought to be UTF-8 as text; what is not comes out as `\\xff`."""
    return output.decode("utf-8", "backslashreplace")


def out(line: str = "") -> None:
    """One line of result to stdout."""
    click.echo(line)


def note(line: str) -> None:
    """One line about what goes on, to stderr, so that stdout holds results alone."""
    click.echo(line, err=True)


def plain(value: object) -> str:
    """A field's value in one cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return local(value).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return safe(", ".join(value)) or "-"
    if isinstance(value, Mapping | list):
        return safe(json.dumps(value, ensure_ascii=False, default=str)) if value else "-"
    return safe(str(value)) or "-"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns as lines: never cut, never wrapped, so that `grep` and `awk` see what people see."""
    cells = [list(headers), *([*row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(headers))]
    return [
        _GAP.join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _width(cell: str) -> int:
    """Columns on the terminal; our own colours take none."""
    return cell_len(click.unstyle(cell))


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; its head stands out on a terminal."""
    head, *lines = table([header.upper() for header in headers], rows)
    out(click.style(head, bold=True))
    for line in lines:
        out(line)


def show_data(data: Any, form: Format) -> None:  # noqa: ANN401 - any plain data
    """Print plain data as JSON or YAML, escapes in it included."""
    if form is Format.JSON:
        out(json.dumps(data, indent=2, default=_json))
    else:
        out(to_yaml(data).rstrip("\n"))


def to_yaml(data: Any) -> str:  # noqa: ANN401 - any plain data
    """Plain data as YAML, fields in the order given."""
    text: str = yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def size(count: int) -> str:
    """Bytes for people: `931 B`, `27.4 MB` (powers of ten, as disks and networks count)."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def interactive() -> bool:
    """Whether a person sits in front of stdout and can answer on stdin."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return text_of(value)
    raise TypeError(f"{type(value).__name__} cannot be shown as JSON")
