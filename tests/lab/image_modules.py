"""The real modules, as they lie in .cache/modules; built there first where they are missing (network and root)."""

import subprocess
import sys
from pathlib import Path

from shoal_image_builder.modules import shelf

ROOT = Path(__file__).parents[2]
MODULES = ROOT / ".cache/modules"
BUILDER = Path(sys.executable).parent / "shoal-image-builder"


def runtime() -> shelf.Module:
    """The node's Python."""
    try:
        return shelf.find_runtime(MODULES)
    except shelf.MissingModule:
        subprocess.run([BUILDER, "build-runtime", "--modules", MODULES], check=True)
        return shelf.find_runtime(MODULES)


def core() -> shelf.Module:
    """The core module."""
    try:
        return shelf.find(MODULES, "core", "bookworm", "1.0")
    except shelf.MissingModule:
        subprocess.run([BUILDER, "build-module", "core", "--modules", MODULES], check=True)
        return shelf.find(MODULES, "core", "bookworm", "1.0")
