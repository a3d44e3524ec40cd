"""What is wrong with a change, said so that an operator can mend it. Pure."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal_bus.errors import Invalid

_SHOWN = 20
_NAMES = 8


@dataclass(frozen=True)
class Problem:
    """`path` is the place in the document (`nodes.n001.mac`), `what` says what is there and what was expected,
    `remedy` what to do about it.
    """

    path: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" + (f"; {self.remedy}" if self.remedy else "")


def refuse(problems: Sequence[Problem]) -> Invalid:
    """The error that tells of these problems, one a line, the first 20 of them in full."""
    lines = [str(problem) for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"… and {len(problems) - _SHOWN} more")
    return Invalid("\n".join(lines))


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`did you mean 'compute'?`, or the names there are, or nothing if there are none or too many."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6) if len(wrong) <= 64 and len(names) <= 2000 else []
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return ""
    return f"known: {', '.join(names[:_NAMES])}{' …' if len(names) > _NAMES else ''}"


def shown(value: object, limit: int = 80) -> str:
    """A value for a message, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
