"""Where packages come from: the machine's own apt sources, those of the wanted release."""

from pathlib import Path

_APT = Path("/etc/apt")


class SourcesError(Exception):
    """The machine's apt sources have nothing for the wanted release. The text is for people."""


def sources_for(flavor: str, apt: Path = _APT) -> list[str]:
    """The entries of this release from sources.list and sources.list.d: a text of one-line entries and one of deb822
    stanzas, as far as there are any.

    Entries of other releases, and of other publishers (whose suites have names of their own), are left out.
    SourcesError if nothing is left.
    """
    suites = {flavor, f"{flavor}-updates", f"{flavor}-security"}
    lines = [line for text in _texts(apt, ".list") for line in text.splitlines() if _line_suite(line) in suites]
    stanzas = [stanza for text in _texts(apt, ".sources") for stanza in _stanzas(text) if _of(stanza, suites)]
    if not lines and not stanzas:
        raise SourcesError(
            f"{apt} names no package source for {flavor}: add the distribution's archive to {apt}/sources.list.d"
        )
    return [text + "\n" for text in ("\n".join(lines), "\n\n".join(stanzas)) if text]


def _texts(apt: Path, suffix: str) -> list[str]:
    files = sorted((apt / "sources.list.d").glob(f"*{suffix}"))
    if suffix == ".list" and (apt / "sources.list").is_file():
        files.insert(0, apt / "sources.list")
    return [file.read_text() for file in files]


def _line_suite(line: str) -> str:
    """The suite of a one-line entry: the word behind the address; options in brackets may hold spaces."""
    words = line.split()
    if not words or words[0] != "deb":
        return ""
    rest = line.split("]", 1)[1].split() if len(words) > 1 and words[1].startswith("[") and "]" in line else words[1:]
    return rest[1] if len(rest) > 1 else ""


def _stanzas(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [stanza.strip() for stanza in "\n".join(lines).split("\n\n") if stanza.strip()]


def _of(stanza: str, suites: set[str]) -> bool:
    fields = {
        name.strip().lower(): value.split()
        for name, _, value in (line.partition(":") for line in stanza.splitlines() if not line[0].isspace())
    }
    enabled = fields.get("enabled", ["yes"]) != ["no"]
    return enabled and "deb" in fields.get("types", []) and bool(suites & set(fields.get("suites", [])))
