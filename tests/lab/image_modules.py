"""The real modules, as they lie in .cache/modules; built there first where that is due (network and root)."""

import subprocess
import sys
from pathlib import Path

from shoal_image_builder.modules import shelf

ROOT = Path(__file__).parents[2]
MODULES = ROOT / ".cache/modules"
BUILDER = Path(sys.executable).parent / "shoal-image-builder"


def runtime() -> shelf.Module:
    """The node's Python."""
    build("build-runtime")
    return shelf.find_runtime(MODULES)


def core() -> shelf.Module:
    """The core module."""
    build("build-module", "core")
    return shelf.find(MODULES, "core", "bookworm", "1.0")


def build(*verb: str) -> None:
    """Have a package built, where it is missing or its recipe or builder changed; what is done goes to stdout."""
    command = [str(BUILDER), *verb, "--modules", str(MODULES), "--if-changed"]
    with subprocess.Popen(command) as builder:
        try:
            status = builder.wait()
        except BaseException:
            builder.terminate()  # and wait: it takes down what it mounted
            raise
    if status != 0:
        raise subprocess.CalledProcessError(status, command)
