"""Options and arguments that many commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from shoal_cli.session import Session
from shoal_cli.terminal import Format

F = TypeVar("F", bound=Callable[..., Any])

pass_session = click.make_pass_decorator(Session)


def output(command: F) -> F:
    """`-o table|json|yaml`, given to the command as `form`."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice([form.value for form in Format]),
        default=Format.TABLE.value,
        callback=lambda _context, _parameter, value: Format(value),
        help="How to print: a table (default), or JSON or YAML for scripts.",
    )(command)


def seconds(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    """A callback for options that are a time to wait: more than 0, and not for ever."""
    if value is not None and not 0 < value < float("inf"):
        raise click.BadParameter(f"{value:g} is not a time to wait: give a number of seconds above 0")
    return value


def dry_run(command: F) -> F:
    """`--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")(command)


def yes(command: F) -> F:
    """`-y`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask before records are removed.")(command)


def examples(*lines: str) -> str:
    """An epilog of examples, each on its own line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
