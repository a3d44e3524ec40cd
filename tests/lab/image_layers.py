"""Small modules, made on the spot, for tests of the image builder."""

import tempfile
from pathlib import Path

from shoal_image_builder.images.kernel_modules import ESSENTIAL
from shoal_image_builder.layers.entry import Entry, Type
from shoal_image_builder.layers.layer import LooseLayer, file_source, loose
from shoal_image_builder.layers.tar import Source
from shoal_image_builder.modules.build import Content, store
from shoal_image_builder.modules.recipe import Recipe
from shoal_image_builder.modules.shelf import Module
from shoal_image_builder.process import Cancel

EPOCH = 1_700_000_000
KERNEL = "6.1.0-test"
CORE_FILES = {
    "boot/vmlinuz-6.1.0-test": "the kernel\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:20228:0:99999:7:::\n",
    "var/lib/dpkg/status": "Package: base\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n",
    f"usr/lib/modules/{KERNEL}/modules.dep": "",
    f"usr/lib/modules/{KERNEL}/modules.order": "",
    f"usr/lib/modules/{KERNEL}/modules.builtin": "".join(f"kernel/{name}.ko\n" for name in ESSENTIAL),
    f"usr/lib/modules/{KERNEL}/modules.builtin.modinfo": "",
}


def file(path: str, text: str = "", *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Source:
    """A file of a layer."""
    return file_source(Entry(path, Type.FILE, mode, uid=uid, gid=gid, mtime=EPOCH), text.encode())


def directory(path: str, mode: int = 0o755) -> Source:
    """A directory of a layer."""
    return Source(Entry(path, Type.DIRECTORY, mode, mtime=EPOCH))


def link(path: str, target: str) -> Source:
    """A symbolic link of a layer."""
    return Source(Entry(path, Type.SYMLINK, 0o777, mtime=EPOCH, target=target))


def layer(name: str, *sources: Source) -> LooseLayer:
    """A layer of these members and the directories above them."""
    return loose(name, sources)


def core(*more: Source) -> LooseLayer:
    """A core with as little in it as an image can do with."""
    return layer("core", *(file(path, text) for path, text in CORE_FILES.items()), link("lib", "usr/lib"), *more)


def write_module(folder: Path, made: LooseLayer, *, version: str = "1.0.0") -> Module:
    """Put a layer into a module package in `folder`."""
    recipe = Recipe(
        name=made.name,
        version=version,
        flavor="bookworm",
        description=f"the {made.name} module of a test",
        epoch=EPOCH,
        variant="apt",
        packages=["none"],
    )
    content = Content(recipe, made.sources, [(made.name, version)])
    with tempfile.TemporaryDirectory() as work:
        return store(content, folder, work=Path(work), cancel=Cancel(), step=lambda _: None)
