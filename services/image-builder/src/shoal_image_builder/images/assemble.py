"""Assembly: layers → squashfs, kernel, initrd → read back → store → manifest. No root, no mounts, no network."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shoal_image_builder.images import initrd, squashfs
from shoal_image_builder.images.builds import Builds, hashes
from shoal_image_builder.images.identity import Inputs, identity, initrd_key, tool_versions
from shoal_image_builder.images.merge import Member, Rank, Ranked, merge
from shoal_image_builder.images.node import NodeCode, collect, compile_layer
from shoal_image_builder.images.site import root_password, site_layer
from shoal_image_builder.layers.entry import LayerError, content_digest
from shoal_image_builder.layers.layer import LooseLayer
from shoal_image_builder.modules import shelf
from shoal_image_builder.node_python import NodePython, unpack
from shoal_image_builder.process import Cancel
from shoal_model.records import Geometry, Image, ImageManifest, ModuleVersion, StoredFile
from shoal_service.store import BlobStore

_KERNEL = re.compile(r"boot/vmlinuz-(?P<version>.+)")
_COMMON = "common"
_CORE = "core"


@dataclass(frozen=True)
class Places:
    """Where an image's parts lie on this head, and where it goes."""

    modules: Path
    images: Path
    shadow: Path
    store: BlobStore


@dataclass(frozen=True)
class Watch:
    """Gives the work up, and hears what is being done: a few words, and how much of the whole is done (0 to 1)."""

    cancel: Cancel
    step: Callable[[str, float], None]


@dataclass(frozen=True)
class _Workbench:
    """What every step of one assembly needs."""

    inputs: Inputs
    tools: dict[str, str]
    code: NodeCode
    work: Path
    watch: Watch


@dataclass(frozen=True)
class _Parts:
    """The files of a build before they are in the store."""

    squashfs: Path
    kernel: Path
    initrd: Path
    kernel_version: str
    content: str


def assemble(name: str, image: Image, places: Places, watch: Watch) -> ImageManifest:
    """Build the image recorded as `name`, or find that it is built; its manifest, published in the store.

    Raises MissingModule, LayerError, NotWhatWasPacked, CommandFailed or Cancelled, each with a text for people.
    """
    watch.step("look at the modules", 0.0)
    code = collect()
    inputs = _inputs(name, image, places, code)
    tools = tool_versions(watch.cancel)
    builds = Builds(places.store)
    manifest = builds.of_identity(identity(inputs, tools), watch.cancel)
    if manifest is None:
        with builds.workspace() as work:
            bench = _Workbench(inputs, tools, code, work, watch)
            manifest = _stored(name, image, bench, _build(bench, builds), places.store)
    else:
        watch.step("nothing has changed", 1.0)
        manifest = manifest.model_copy(update={"image": name, "flavor": image.flavor})
    builds.publish(manifest)
    return manifest


def _inputs(name: str, image: Image, places: Places, code: NodeCode) -> Inputs:
    modules = [shelf.find(places.modules, module, image.flavor, image.version) for module in sorted(image.modules)]
    runtime = shelf.find_runtime(places.modules)
    trees = [places.images / folder / "copy" for folder in (_COMMON, name)]
    epoch = max(module.epoch for module in (*modules, runtime))
    return Inputs(modules, runtime, code.digest, site_layer(modules, trees, root_password(places.shadow), epoch))


def _build(bench: _Workbench, builds: Builds) -> _Parts:
    inputs, work, step, cancel = bench.inputs, bench.work, bench.watch.step, bench.watch.cancel
    step("compile the node's code", 0.05)
    python = NodePython(work / "runtime")
    unpack(inputs.runtime.layer(), python.root)
    node = compile_layer(bench.code, python, work, epoch=inputs.epoch, cancel=cancel)
    step("merge the layers and compress", 0.1)
    kernel = _Kernel(work / "kernel")
    members = kernel.taken_out(merge(_ranked(inputs, node)))
    entries = squashfs.write(members, work / "squashfs", epoch=inputs.epoch, cancel=cancel)
    step("read back and compare", 0.5)
    squashfs.verify(work / "squashfs", entries, cancel=cancel)
    step("make the initrd", 0.6)
    core = next(module for module in inputs.modules if module.name == _CORE).layer()
    base = initrd.Base(python, core, kernel.version, inputs.epoch)
    large = builds.initrd(
        initrd_key(inputs, bench.tools), lambda out: initrd.write_base(base, out, work=work, cancel=cancel), cancel
    )
    initrd.write_code(bench.code, node, work / "initrd.code", epoch=inputs.epoch, cancel=cancel)
    initrd.join([large, work / "initrd.code"], work / "initrd.img")
    return _Parts(work / "squashfs", kernel.path, work / "initrd.img", kernel.version, content_digest(entries))


def _ranked(inputs: Inputs, node: LooseLayer) -> list[Ranked]:
    layers = [Ranked(module.layer(), Rank.CORE if module.name == _CORE else Rank.MODULE) for module in inputs.modules]
    own = [Ranked(inputs.runtime.layer(), Rank.OWN), Ranked(node, Rank.OWN)]
    return [*layers, *own, Ranked(inputs.site, Rank.SITE)]


def _stored(name: str, image: Image, bench: _Workbench, parts: _Parts, store: BlobStore) -> ImageManifest:
    """Put the files of a build into the store; its manifest."""
    bench.watch.step("put it into the store", 0.95)
    files = {
        kind: StoredFile(sha256=digest, size=size)
        for kind, (digest, size) in (
            ("squashfs", store.add(parts.squashfs)),
            ("kernel", store.add(parts.kernel)),
            ("initrd", store.add(parts.initrd)),
        )
    }
    modules = bench.inputs.modules
    geometry = Geometry()
    _, blocks = hashes(parts.squashfs, geometry, bench.watch.cancel)
    return ImageManifest(
        image=name,
        flavor=image.flavor,
        version=next(module.version for module in modules if module.name == _CORE),
        identity=identity(bench.inputs, bench.tools),
        content=parts.content,
        modules=[ModuleVersion(name=each.name, version=each.version, sha256=each.sha256) for each in modules],
        kernel_version=parts.kernel_version,
        geometry=geometry,
        blocks=blocks,
        **files,
    )


class _Kernel:
    """Takes the kernel out of a stream of members: nodes load it over the network and need no second one in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = ""

    @property
    def version(self) -> str:
        """The kernel's release (`uname -r`). LayerError if there was none."""
        if not self._version:
            raise LayerError("no module of this image holds a kernel (boot/vmlinuz-*)")
        return self._version

    def taken_out(self, members: Iterator[Member]) -> Iterator[Member]:
        """The members without the kernel, which is written to `path`. LayerError if there is a second one."""
        for entry, content in members:
            match = _KERNEL.fullmatch(entry.path)
            if match is None or content is None:
                yield entry, content
                continue
            if self._version:
                raise LayerError(f"the image has two kernels, {self._version} and {match['version']}")
            self._version = match["version"]
            with self.path.open("wb") as file:
                shutil.copyfileobj(content, file)
