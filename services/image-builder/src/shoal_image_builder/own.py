"""Our own code as an input: what it makes changes when it does."""

import hashlib
import json
from functools import cache
from pathlib import Path

import shoal_image_builder

MODULE_BUILD = ("modules/*.py", "modules/recipes/*.yaml", "layers/*.py", "node_python.py", "python_compiler.py")
"""What decides on a module package's bytes, the distribution's packages apart."""


@cache
def own_digest(patterns: tuple[str, ...]) -> str:
    """SHA-256 over the files of this package that match, in hex."""
    package = Path(next(iter(shoal_image_builder.__path__)))
    files = [path for pattern in patterns for path in sorted(package.glob(pattern))]
    return digest([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


def digest(parts: object) -> str:
    """SHA-256 of plain data, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
