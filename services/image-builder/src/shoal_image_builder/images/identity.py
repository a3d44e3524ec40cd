"""An image's identity: the hash of everything it is made from, tools included. Same identity, same bytes, no work."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zstandard

from shoal_image_builder.images import initrd, squashfs
from shoal_image_builder.layers.layer import Layer
from shoal_image_builder.modules.shelf import Module
from shoal_image_builder.own import digest, own_digest
from shoal_image_builder.process import Cancel, output
from shoal_model.records import Geometry

_OWN = ("images/*.py", "layers/*.py", "node_python.py", "python_compiler.py")


@dataclass(frozen=True)
class Inputs:
    """What an image is made from."""

    modules: Sequence[Module]
    runtime: Module
    node_digest: str
    site: Layer

    @property
    def epoch(self) -> int:
        """Seconds: as old as the youngest of the modules."""
        return max(module.epoch for module in (*self.modules, self.runtime))


def identity(inputs: Inputs, tools: dict[str, str]) -> str:
    """The identity of the image of these inputs. Names of images and of machines play no part."""
    parts: dict[str, Any] = {
        "modules": sorted([module.name, module.version, module.sha256] for module in inputs.modules),
        "node": inputs.node_digest,
        "site": inputs.site.digest,
        "squashfs": [squashfs.LEVEL, squashfs.BLOCK],
        "geometry": [Geometry().symbol_size, Geometry().block_symbols],
        "initrd": initrd_key(inputs, tools),
        "tools": tools,
    }
    return digest(parts)


def initrd_key(inputs: Inputs, tools: dict[str, str]) -> str:
    """What the large archive of the initrd depends on; not on the rest of our own code, so that it is seldom made."""
    core = next(module for module in inputs.modules if module.name == "core")
    own = own_digest(("images/cpio.py", "images/initrd.py", "images/kernel_modules.py", "node_python.py"))
    parts = [core.sha256, inputs.runtime.sha256, initrd.LEVEL, inputs.epoch, own, tools["depmod"], tools["zstandard"]]
    return digest(parts)


def tool_versions(cancel: Cancel) -> dict[str, str]:
    """The versions of everything whose output goes into an image."""
    first = {
        argv[0]: output(argv, cancel=cancel).decode().splitlines()[0].strip()
        for argv in (["tar2sqfs", "--version"], ["depmod", "--version"])
    }
    return first | {"libzstd": _libzstd(), "zstandard": str(zstandard.ZSTD_VERSION), "assembly": own_digest(_OWN)}


def _libzstd() -> str:
    """The library that tar2sqfs compresses with: another version gives other bytes."""
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_versionString.restype = ctypes.c_char_p
    version: bytes = library.ZSTD_versionString()
    return version.decode()
