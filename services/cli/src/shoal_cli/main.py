"""`shoal`: the command. Errors end in one sentence on stderr: exit status 1 for a failure, 2 for wrong usage."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

import click
from pydantic import ValidationError

from shoal_cli.root import shoal
from shoal_cli.session import Session
from shoal_cli.terminal import note, safe, text_of

_SHOWN = 60


def main() -> None:
    """Run the command line and exit. What libraries log is for services; here it is shown with SHOAL_DEBUG=1."""
    logging.basicConfig(handlers=None if os.environ.get("SHOAL_DEBUG") else [logging.NullHandler()])
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], session: Session | None = None) -> int:
    """Run a command line and return its exit status. `session` stands in for the cluster that the options name."""
    try:
        _require_text(arguments)
        status = shoal.main(list(arguments), prog_name="shoal", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except click.Abort:
        note("shoal: stopped")
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            note(error.ctx.get_usage())
        note(f"shoal: {error.format_message()}")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has had enough; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        note(f"shoal: {safe(str(error))}")
        return 1
    except ValidationError as error:
        _debug()
        for told in _told(error):
            note(f"shoal: {told}")
        return click.UsageError.exit_code
    except Exception as error:
        _debug()
        told = safe(str(error)) or "no message"
        note(f"shoal: {type(error).__name__}: {told}. This is a bug in shoal; SHOAL_DEBUG=1 shows where.")
        return 1
    return status if isinstance(status, int) else 0


def _require_text(arguments: Sequence[str]) -> None:
    """Raises UsageError for an argument that is not UTF-8: Python holds such bytes as lone surrogates, which neither a
    message nor a file in UTF-8 can.
    """
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            given = safe(text_of(argument.encode("utf-8", "surrogateescape")))
            shown = given if len(given) <= _SHOWN else given[:_SHOWN] + "…"
            raise click.UsageError(f"argument {number} is not UTF-8 text: {shown}") from None


def _debug() -> None:
    if os.environ.get("SHOAL_DEBUG"):
        traceback.print_exc()


def _told(error: ValidationError) -> Iterator[str]:
    """What is wrong with values that no message may hold: the field, what was expected and what was given."""
    for problem in error.errors(include_url=False):
        field, value = ".".join(str(part) for part in problem["loc"]), repr(problem["input"])
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if value in message else f" (given: {value if len(value) <= _SHOWN else value[:_SHOWN] + '…'})"
        yield safe(f"{field}: {message}{given}")
