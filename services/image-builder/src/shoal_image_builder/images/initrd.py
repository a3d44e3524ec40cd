"""The initrd: the node's Python and code, busybox for a shell, and the kernel's modules for network and image.

It is two archives, one after the other, as the kernel allows: the large one changes with the kernel or the runtime,
the small one holds the node's code, so that a new execd costs no minute of compression.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from shoal_image_builder.images import cpio
from shoal_image_builder.images.kernel_modules import INDEX_FILES, closure
from shoal_image_builder.images.node import INIT, NodeCode
from shoal_image_builder.layers.entry import Entry, LayerError, Type
from shoal_image_builder.layers.layer import Layer, LooseLayer, loose
from shoal_image_builder.layers.tar import Source
from shoal_image_builder.modules.runtime import tree_sources
from shoal_image_builder.node_python import BUSYBOX, NodePython
from shoal_image_builder.process import Cancel, run

LEVEL = 19
_THREADS = 2  # zstd's output is the same for any number of workers but none
_MODULES = "usr/lib/modules/"
_DIRECTORIES = ("bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "union", "usr/bin", "usr/sbin")
_ALIGNMENT = 4


@dataclass(frozen=True)
class Base:
    """What the large archive is made from: the runtime unpacked in `python.root`, the kernel of a core layer."""

    python: NodePython
    core: Layer
    kernel_version: str
    epoch: int


def write_base(base: Base, out: Path, *, work: Path, cancel: Cancel) -> None:
    """Write the large archive, compressed; `work` is scratch space."""
    root = work / "initrd"
    _collect_modules(base, root, cancel=cancel)
    sources = [*tree_sources(root, base.epoch), *tree_sources(base.python.root, base.epoch)]
    sources = [source for source in sources if source.entry.type is not Type.DIRECTORY]
    sources += [_directory(path, base.epoch) for path in _DIRECTORIES]
    sources += [
        Source(Entry(f"bin/{name}", Type.SYMLINK, 0o777, mtime=base.epoch, target=f"/{BUSYBOX}"))
        for name in base.python.applets(cancel=cancel)
    ]
    sources.append(Source(Entry("lib", Type.SYMLINK, 0o777, mtime=base.epoch, target="usr/lib")))
    # The kernel itself calls /sbin/modprobe for what it finds missing.
    sources.append(Source(Entry("sbin/modprobe", Type.SYMLINK, 0o777, mtime=base.epoch, target=f"/{BUSYBOX}")))
    _compress(loose("initrd", sources), out, cancel=cancel)


def write_code(code: NodeCode, layer: LooseLayer, out: Path, *, epoch: int, cancel: Cancel) -> None:
    """Write the small archive, compressed: the node's code (without what only the image needs) and /init."""
    init = code.data[INIT]
    sources = [source for source in layer.sources if source.entry.path.startswith("usr/lib/shoal/")]
    sources = [source for source in sources if source.entry.type is Type.FILE]
    entry = Entry("init", Type.FILE, 0o755, mtime=epoch, size=init.stat().st_size)
    _compress(loose("node", [*sources, Source(entry, lambda: init.open("rb"))]), out, cancel=cancel)


def join(parts: Sequence[Path], out: Path) -> None:
    """Put archives one after the other, each at a multiple of four bytes, where the kernel looks for them."""
    with out.open("wb") as file:
        for part in parts:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            with part.open("rb") as content:
                shutil.copyfileobj(content, file)


def _collect_modules(base: Base, root: Path, *, cancel: Cancel) -> None:
    """The modules that an initrd needs, from the core layer, with an index of their own (depmod(8))."""
    folder = f"{_MODULES}{base.kernel_version}/"
    indexes = _read(base.core, {f"{folder}{name}" for name in ("modules.dep", *INDEX_FILES)})
    wanted = closure(indexes[f"{folder}modules.dep"].decode(), indexes[f"{folder}modules.builtin"].decode())
    cancel.check()
    files = _read(base.core, {f"{folder}{path}" for path in wanted})
    files |= {path: content for path, content in indexes.items() if not path.endswith("modules.dep")}
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    (root / "lib").symlink_to("usr/lib")
    run(["depmod", "--basedir", str(root), base.kernel_version], cancel=cancel)


def _read(layer: Layer, paths: set[str]) -> dict[str, bytes]:
    found = {entry.path: content.read() for entry, content in layer.members() if content and entry.path in paths}
    missing = sorted(paths - set(found))
    if missing:
        raise LayerError(f"layer {layer.name} holds no {missing[0]}")
    return found


def _directory(path: str, epoch: int) -> Source:
    return Source(Entry(path, Type.DIRECTORY, 0o1777 if path == "tmp" else 0o755, mtime=epoch))


def _compress(layer: LooseLayer, out: Path, *, cancel: Cancel) -> None:
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=_THREADS, write_checksum=True)
    with out.open("wb") as file, compressor.stream_writer(file, closefd=False) as stream:
        cpio.write(_watched(layer, cancel), stream)


def _watched(layer: LooseLayer, cancel: Cancel) -> Iterable[cpio.Member]:
    for member in layer.members():
        cancel.check()
        yield member
