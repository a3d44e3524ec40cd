"""The few files that several modules write: how their versions are joined into one.

Each handler takes the versions in order of the layers (core first) and gives the content of the image's file.
Everything else that differs between modules is a conflict and stops the assembly.
"""

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal_image_builder.layers.entry import LayerError


@dataclass(frozen=True)
class Version:
    """One layer's version of a shared file. The site's changes values; the modules' may only add."""

    layer: str
    text: str
    site: bool = False


Handler = Callable[[str, Sequence[Version]], str]


def handler_for(path: str) -> Handler | None:
    """How versions of this file are joined; None for a file that only one layer may have."""
    exact = _HANDLERS.get(path)
    if exact is not None:
        return exact
    for pattern, handler in _PATTERNS:
        if fnmatch.fnmatchcase(path, pattern):
            return handler
    return None


def accounts(path: str, versions: Sequence[Version]) -> str:
    """passwd(5), group(5) and their shadows: by name; a number given to two names is a conflict. A password that the
    site gives replaces the modules'.
    """
    lines: dict[str, list[str]] = {}
    for version in versions:
        for line in version.text.splitlines():
            fields = line.split(":")
            known = lines.get(fields[0])
            if version.site:
                lines[fields[0]] = _with_password(path, fields, known)
            elif known not in (None, fields):
                raise LayerError(f"{path}: {fields[0]} is not the same in {version.layer} as in a module before it")
            else:
                lines[fields[0]] = fields
    if path in ("etc/passwd", "etc/group"):
        _check_numbers(path, lines)
    return "".join(":".join(fields) + "\n" for fields in lines.values())


def stanzas(*keys: str) -> Handler:
    """Paragraphs of fields, as dpkg writes them, told apart by some of those: the same ones once, in order."""

    def join(path: str, versions: Sequence[Version]) -> str:
        found: dict[tuple[str, ...], str] = {}
        for version in versions:
            for stanza in filter(None, (part.strip("\n") for part in version.text.split("\n\n"))):
                fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", stanza, re.MULTILINE))
                key = tuple(fields.get(name, "") for name in keys)
                if found.setdefault(key, stanza) != stanza:
                    raise LayerError(
                        f"{path}: {' '.join(key)} is not the same in {version.layer} as in a module before it; "
                        "the modules of an image must come from one release"
                    )
        return "".join(f"{found[key]}\n\n" for key in sorted(found))

    return join


def lines(path: str, versions: Sequence[Version]) -> str:
    """Files in which every line stands for itself: all of them once, sorted."""
    return "".join(f"{line}\n" for line in sorted({line for version in versions for line in version.text.splitlines()}))


def diversions(path: str, versions: Sequence[Version]) -> str:
    """dpkg's diversions: records of three lines."""
    records: set[tuple[str, ...]] = set()
    for version in versions:
        rows = version.text.splitlines()
        if len(rows) % 3:
            raise LayerError(f"{path}: {version.layer} holds a record that has not three lines")
        records |= {tuple(rows[start : start + 3]) for start in range(0, len(rows), 3)}
    return "".join(f"{row}\n" for record in sorted(records) for row in record)


def _with_password(path: str, fields: list[str], known: list[str] | None) -> list[str]:
    if known is None:
        raise LayerError(f"{path}: the site sets a password for {fields[0]}, which no module has")
    return [known[0], fields[1], *known[2:]]


def _check_numbers(path: str, lines: dict[str, list[str]]) -> None:
    names: dict[str, str] = {}
    for name, fields in lines.items():
        other = names.setdefault(fields[2], name)
        if other != name:
            raise LayerError(f"{path}: {name} and {other} both have the number {fields[2]}")


_HANDLERS: dict[str, Handler] = {
    "etc/passwd": accounts,
    "etc/group": accounts,
    "etc/shadow": accounts,
    "etc/gshadow": accounts,
    "etc/shells": lines,
    "var/lib/apt/extended_states": stanzas("Package", "Architecture"),
    "var/lib/dpkg/diversions": diversions,
    "var/lib/dpkg/statoverride": lines,
    "var/lib/dpkg/status": stanzas("Package", "Architecture"),
    "var/lib/ucf/hashfile": lines,
    "var/lib/ucf/registry": lines,
}
_PATTERNS: tuple[tuple[str, Handler], ...] = (
    ("var/cache/debconf/*.dat", stanzas("Name")),
    ("var/lib/dpkg/triggers/*", lines),
)
