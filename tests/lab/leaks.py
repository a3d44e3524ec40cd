"""Where secrets are that should not be: in bytes, in files, as they are or in what was made of them."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Secrets = Mapping[str, bytes]
"""What is searched for, by names that may be told."""


def leaks(secrets: Secrets, content: bytes) -> list[str]:
    """The names of those that are in there."""
    return [name for name, secret in secrets.items() if any(form in content for form in _forms(secret))]


def leaking(secrets: Secrets, paths: Iterable[Path]) -> dict[str, list[str]]:
    """The files that hold any of them, and the names of those."""
    found = {str(path): leaks(secrets, path.read_bytes()) for path in paths}
    return {path: names for path, names in found.items() if names}


def below(*folders: Path) -> list[Path]:
    """Every file there."""
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def _forms(secret: bytes) -> Iterator[bytes]:
    """A secret as it is, and as it stands in the base64 of something that holds it: so the bus server asks auth."""
    yield secret
    for before in range(3):
        coded = base64.b64encode(bytes(before) + secret)
        yield coded[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
