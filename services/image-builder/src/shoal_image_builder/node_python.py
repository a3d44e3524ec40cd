"""The node's Python, as it lies unpacked in a directory of this machine: where its parts are, and how to run it."""

import os
import shutil
from pathlib import Path

from shoal_image_builder import python_compiler
from shoal_image_builder.layers.entry import Type
from shoal_image_builder.layers.layer import Layer
from shoal_image_builder.process import Cancel, output, run

PREFIX = "usr/lib/shoal"
PYTHON = f"{PREFIX}/bin/python3"
BUSYBOX = f"{PREFIX}/bin/busybox"
LIBRARIES = f"{PREFIX}/lib"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"
STDLIB = f"{PREFIX}/lib/python3.11"


def unpack(layer: Layer, root: Path) -> None:
    """Write a layer's files and directories below `root`; owners are left aside."""
    for entry, content in layer.members():
        path = root / entry.path
        if entry.type is Type.DIRECTORY:
            path.mkdir(parents=True, exist_ok=True)
        elif entry.type is Type.SYMLINK:
            path.symlink_to(entry.target)
        elif content is not None:
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)
            path.chmod(entry.mode)


class NodePython:
    """The runtime below `root`. It is started by its own loader, which is not where the interpreter expects it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def compile(self, folder: Path, prefix: str, *, cancel: Cancel) -> None:
        """Replace every source under `folder` by byte code that claims to come from `prefix`."""
        argv = [str(self.root / LOADER), "--library-path", str(self.root / LIBRARIES), str(self.root / PYTHON)]
        argv += ["-s", "-S", "-B", "-P", python_compiler.__file__, str(folder), prefix]
        run(argv, cancel=cancel, env={"PYTHONHASHSEED": "0"})

    def run_alone(self, code: str, *, cancel: Cancel) -> bytes:
        """Run `code` in a root directory that holds nothing but `root`; what it prints. Without root privileges, in a
        user namespace.
        """
        chroot = ["chroot"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "chroot"]
        return output([*chroot, str(self.root), f"/{PYTHON}", "-ISB", "-c", code], cancel=cancel)

    def applets(self, *, cancel: Cancel) -> list[str]:
        """The names that busybox answers to."""
        return output([str(self.root / BUSYBOX), "--list"], cancel=cancel).decode().split()
