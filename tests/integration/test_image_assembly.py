"""Assembly for real: bit-identical whatever the machine, read back, and what the node's Python makes of it."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
import zstandard

from lab import image_modules
from lab.image_layers import CORE_FILES, KERNEL, core, file, layer, write_module
from shoal_bus.api import Endpoint, Job
from shoal_bus.fakes import MemoryBus
from shoal_image_builder.images import squashfs
from shoal_image_builder.images.assemble import Places, Watch, assemble
from shoal_image_builder.images.kernel_modules import HARDWARE
from shoal_image_builder.images.node import collect, compile_layer
from shoal_image_builder.images.site import copy_tree
from shoal_image_builder.images.squashfs import NotWhatWasPacked
from shoal_image_builder.layers.entry import LayerError, Type
from shoal_image_builder.node_python import NodePython, unpack
from shoal_image_builder.process import Cancel, Cancelled
from shoal_image_builder.registry import Releases
from shoal_image_builder.rootfs import pack_tree
from shoal_image_builder.worker import BUILD, Worker
from shoal_model.messages import BuildImageJob, Empty, PublishImageRequest, RecordsReply, RecordsRequest
from shoal_model.records import Image, ImageManifest, Kind, compact
from shoal_model.subjects import Service, rpc
from shoal_service.store import BlobStore

pytestmark = pytest.mark.integration

_IMAGE = Image(flavor="bookworm", version="1", modules=["core", "slurm", "ha"])
_CAPABILITY = "security.capability"
_TESTS = Path(__file__).parents[1]
_BASE = {"HOME": "/root", "PATH": os.environ["PATH"], "PYTHONPATH": str(_TESTS)}
_ODD = _BASE | {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "SOURCE_DATE_EPOCH": "1"}
_ELSEWHERE = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; umask 077; exec "$0" "$@"']


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny core and two modules beside the real runtime."""
    folder = tmp_path_factory.mktemp("modules")
    write_module(folder, core(file("usr/bin/tool", "x" * 400_000, mode=0o4755), file("etc/motd", "hello\n")))
    for name, number in (("slurm", 902), ("ha", 903)):
        passwd = f"{CORE_FILES['etc/passwd']}{name}:x:{number}:{number}::/:/bin/false\n"
        write_module(folder, layer(name, file("etc/passwd", passwd), file(f"usr/sbin/{name}d", name, mode=0o755)))
    os.symlink(image_modules.runtime().package, folder / image_modules.runtime().package.name)
    return folder


@pytest.fixture(scope="module")
def warm(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the large archive of the initrd is made already: compressing it takes longer than all else."""
    folder = tmp_path_factory.mktemp("warm")
    assemble("compute", _IMAGE, Places(shelf, folder, folder, BlobStore(folder / "store")), _quietly())
    return folder / "store/initrds"


@pytest.fixture
def places(shelf: Path, site: tuple[Path, Path], warm: Path, tmp_path: Path) -> Places:
    """A head with a warm store and nothing built."""
    shutil.copytree(warm, tmp_path / "store/initrds")
    return Places(shelf, *site, BlobStore(tmp_path / "store"))


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, Path]:
    """The operator's copy trees and a shadow file."""
    copied = tmp_path / "images/common/copy/etc"
    copied.mkdir(parents=True)
    (copied / "motd").write_text("copied\n")
    (tmp_path / "shadow").write_text("root:$6$salt$hash:19000:0:99999:7:::\n")
    return tmp_path / "images", tmp_path / "shadow"


def _assembled(
    argv: list[str], shelf: Path, site: tuple[Path, Path], store: Path, modules: list[str], env: dict[str, str]
) -> ImageManifest:
    program = [*argv, sys.executable, "-m", "lab.image_assembly"]
    done = subprocess.run([*program, shelf, *site, store, *modules], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return ImageManifest.model_validate_json(done.stdout)


def _quietly() -> Watch:
    return Watch(Cancel(), lambda *_: None)


def test_the_same_image_on_another_machine(shelf: Path, site: tuple[Path, Path], tmp_path: Path) -> None:
    one = _assembled([], shelf, site, tmp_path / "one", ["core", "slurm", "ha"], _BASE)
    two = _assembled(_ELSEWHERE, shelf, site, tmp_path / "two", ["ha", "core", "slurm"], _ODD)
    assert one == two
    for stored in (one.squashfs, one.kernel, one.initrd):
        blobs = [(tmp_path / store / "blobs" / stored.sha256).read_bytes() for store in ("one", "two")]
        assert blobs[0] == blobs[1]
        assert len(blobs[0]) == stored.size
    assert (one.kernel_version, one.version) == (KERNEL, "1.0.0")
    assert (tmp_path / "one/blobs" / one.kernel.sha256).read_text() == "the kernel\n"


def test_what_is_in_the_image(places: Places, tmp_path: Path) -> None:
    manifest = assemble("compute", _IMAGE, places, _quietly())
    root = tmp_path / "root"
    image = places.store.path(manifest.squashfs.sha256)
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-dest", root, image], check=True, capture_output=True)
    assert (root / "etc/motd").read_text() == "copied\n"
    assert (root / "etc/shadow").read_text() == "root:$6$salt$hash:20228:0:99999:7:::\n"
    assert [line.split(":")[0] for line in (root / "etc/passwd").read_text().splitlines()] == ["root", "ha", "slurm"]
    assert (root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o4755
    assert not list((root / "boot").iterdir())
    wanted = root / "etc/systemd/system/multi-user.target.wants/shoal-execd.service"
    assert os.readlink(wanted) == "/lib/systemd/system/shoal-execd.service"
    assert os.access(root / "usr/sbin/init.shoal", os.X_OK)
    assert os.access(root / "usr/lib/shoal/bin/python3", os.X_OK)
    assert sorted(path.name for path in (root / "usr/share/doc/shoal-image").iterdir())[:2] == [
        "core.contents.gz",
        "core.packages.version.gz",
    ]


def test_the_same_inputs_are_no_work(places: Places) -> None:
    first = assemble("compute", _IMAGE, places, _quietly())
    steps: list[str] = []
    again = assemble("login", _IMAGE, places, Watch(Cancel(), lambda what, _: steps.append(what)))
    assert steps == ["look at the modules", "nothing has changed"]
    assert again == first.model_copy(update={"image": "login"})
    places.shadow.write_text("root:$6$other$hash:19000::::::\n")
    changed = assemble("compute", _IMAGE, places, _quietly())
    assert changed.squashfs != first.squashfs
    assert changed.initrd == first.initrd


async def test_a_damaged_store_is_repaired_by_building_the_image_again(places: Places) -> None:
    async with _published(places) as (build, releases):
        first = await build()
        [warm] = (places.store.root / "initrds").iterdir()
        files = [places.store.path(file.sha256) for file in (first.squashfs, first.kernel, first.initrd)]
        right = {path: path.read_bytes() for path in (*files, warm)}
        for path, content in right.items():
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert await build() == first
    assert {path: path.read_bytes() for path in right} == right
    assert releases == [first, first]


@asynccontextmanager
async def _published(
    places: Places,
) -> AsyncIterator[tuple[Callable[[], Awaitable[ImageManifest]], list[ImageManifest]]]:
    """Builds of the image as the service makes them on request, and what its registry is told of each."""
    bus, releases = MemoryBus(), list[ImageManifest]()

    async def publish(_: str, request: PublishImageRequest) -> Empty:
        releases.append(ImageManifest.model_validate_json(request.manifest.body))
        return Empty()

    async def records(_: str, request: RecordsRequest) -> RecordsReply:
        assert request.kind in (Kind.IMAGE, Kind.IMAGE_RELEASE)
        found = {"compute": compact(_IMAGE)} if request.kind is Kind.IMAGE else {}
        return RecordsReply(records=found, revision=1)

    endpoints: list[Endpoint[Any]] = [
        Endpoint(rpc(Service.REGISTRY, "publish-image"), PublishImageRequest, publish),
        Endpoint(rpc(Service.REGISTRY, "list"), RecordsRequest, records),
    ]
    await bus.serve(Service.REGISTRY, "0", endpoints)
    told = Releases(bus, places.store, 3, None)
    worker = Worker(bus, places, told, log=structlog.stdlib.get_logger("test"), now=lambda: datetime.now(UTC))

    async def nothing(_: float = 0.0) -> None:
        """The queue takes note."""

    async def build() -> ImageManifest:
        message = BuildImageJob(name="compute")
        await worker.work(Job(BUILD, message, "j1", 1, done=nothing, again=nothing, still_working=nothing))
        return releases[-1]

    yield build, releases


def test_nothing_is_left_of_a_failed_or_cancelled_assembly(places: Places, tmp_path: Path) -> None:
    cancel = Cancel()

    def step(what: str, _: float) -> None:
        if what.startswith("merge"):
            cancel.throw()

    with pytest.raises(Cancelled):
        assemble("compute", _IMAGE, places, Watch(cancel, step))
    bad = tmp_path / "bad"
    shutil.copytree(places.modules, bad, symlinks=True)
    (bad / "shoal-module-ha-bookworm_1.0.0_amd64.deb").unlink()
    write_module(bad, layer("ha", file("usr/sbin/slurmd", "another")))
    with pytest.raises(LayerError, match=r"usr/sbin/slurmd: the file of layer slurm .* contradicts .* layer ha"):
        assemble("compute", _IMAGE, replace(places, modules=bad), _quietly())
    assert [path.name for path in places.store.root.iterdir()] == ["initrds"]


def test_a_damaged_module_stops_the_assembly(places: Places, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(places.modules, bad, symlinks=True)
    package = bad / "shoal-module-slurm-bookworm_1.0.0_amd64.deb"
    content = bytearray(package.read_bytes())
    at = content.index(zstandard.FRAME_HEADER) + 40
    content[at] ^= 1
    package.write_bytes(content)
    with pytest.raises(LayerError, match="layer slurm is damaged"):
        assemble("compute", _IMAGE, replace(places, modules=bad), _quietly())


def test_a_flipped_byte_in_the_image_is_noticed(tmp_path: Path) -> None:
    made = core(file("usr/share/text", "".join(f"line {number}\n" for number in range(90_000))))
    out = tmp_path / "image"
    entries = squashfs.write(made.members(), out, epoch=1_700_000_000, cancel=Cancel())
    squashfs.verify(out, entries, cancel=Cancel())
    with pytest.raises(NotWhatWasPacked, match="1 members are missing"):
        squashfs.verify(out, [*entries, file("zzz").entry], cancel=Cancel())
    with pytest.raises(NotWhatWasPacked, match="packed was None"):
        squashfs.verify(out, entries[:-1], cancel=Cancel())
    content = bytearray(out.read_bytes())
    content[4000] ^= 0x10
    out.write_bytes(content)
    with pytest.raises(Exception, match="image"):
        squashfs.verify(out, entries, cancel=Cancel())


def test_the_nodes_code_runs_where_there_is_nothing_else(tmp_path: Path) -> None:
    python = NodePython(tmp_path / "root")
    unpack(image_modules.runtime().layer(), python.root)
    code = collect()
    layers = [compile_layer(code, python, tmp_path / name, epoch=1_700_000_000, cancel=Cancel()) for name in ("a", "b")]
    contents = [[content.read() if content else None for _, content in each.members()] for each in layers]
    assert contents[0] == contents[1]
    unpack(layers[0], python.root)
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in code.library
        if name.startswith("shoal_") and name.endswith(".py")
    )
    program = (
        "import asyncio, ssl, importlib, sys, nats, nats.js, msgpack, msgpack.fallback\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "assert msgpack.Packer is msgpack.fallback.Packer\n"
        "assert msgpack.unpackb(msgpack.packb({'a': [1, b'x', 2.5]})) == {'a': [1, b'x', 2.5]}\n"
        "assert sys.modules['shoal_execd'].__file__.startswith('/usr/lib/shoal/lib/python3.11/')\n"
        "print(ssl.OPENSSL_VERSION, len(sys.modules))\n"
    )
    assert b"OpenSSL 3" in python.run_alone(program, cancel=Cancel())


def test_the_real_core_is_the_same_twice_over(site: tuple[Path, Path], tmp_path: Path) -> None:
    image_modules.core(), image_modules.runtime()
    one = _assembled([], image_modules.MODULES, site, tmp_path / "one", ["core"], _BASE)
    two = _assembled(_ELSEWHERE, image_modules.MODULES, site, tmp_path / "two", ["core"], _ODD)
    assert one.identity == two.identity, "the node's code was changed while this ran"
    assert one == two
    stored = BlobStore(tmp_path / "two").path(one.squashfs.sha256)
    assert stored.stat().st_size == one.squashfs.size
    assert len(one.blocks) == -(-one.squashfs.size // one.geometry.block_size)
    assert one.squashfs.size < 120e6
    assert one.initrd.size < 20e6


def test_the_real_core_is_what_a_node_needs() -> None:
    module = image_modules.core()
    manifest = {entry.path: entry for entry in module.manifest()}
    assert (manifest["etc/machine-id"].size, manifest["etc/machine-id"].type) == (0, Type.FILE)
    for path in ("etc/hostname", "etc/resolv.conf", "usr/bin/python3", "etc/apt/sources.list.d/0000debian.sources"):
        assert path not in manifest
    for path in ("union", "etc/shoal/options.d", "var/log/shoal", "usr/lib/shoal/init.d", "etc/network/interfaces.d"):
        assert manifest[path].type is Type.DIRECTORY
    assert manifest["usr/bin/ping"].xattrs[0][0] == "security.capability"
    assert manifest["etc/systemd/system/systemd-firstboot.service"].target == "/dev/null"
    assert not [path for path in manifest if path.startswith("etc/ssh/ssh_host_")]
    drivers = {Path(path).stem.replace("-", "_") for path in manifest if path.endswith(".ko")}
    builtin = {"virtio_pci", "af_packet", "crc32c_generic", "virtio_mmio"}
    assert [name for name in HARDWARE if name not in drivers | builtin] == []


def test_no_driver_of_the_real_core_needs_one_that_was_left_out() -> None:
    needs: dict[str, list[str]] = {}
    for entry, content in image_modules.core().layer().members():
        if content is not None and entry.path.endswith(".ko"):
            needs[Path(entry.path).stem.replace("-", "_")] = _depends(content.read())
    dangling = {name: [each for each in wanted if each not in needs] for name, wanted in needs.items()}
    assert {name: missing for name, missing in dangling.items() if missing} == {}


def test_file_capabilities_of_trees_are_kept(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "tool").write_text("x")
    subprocess.run(["setcap", "cap_net_raw=ep", tree / "tool"], check=True)
    assert pack_tree(tree, tmp_path / "tree.tar") == 1
    assert copy_tree(tree, 0)[0].entry.xattrs == ((_CAPABILITY, os.getxattr(tree / "tool", _CAPABILITY)),)
    argv = ["tar", "--xattrs", "--xattrs-include=*", "-xf", str(tmp_path / "tree.tar"), "-C", str(tmp_path)]
    subprocess.run(argv, check=True)
    assert os.getxattr(tmp_path / "tool", _CAPABILITY) == os.getxattr(tree / "tool", _CAPABILITY)


def _depends(module: bytes) -> list[str]:
    """What a kernel module says it needs: `depends=` among the strings of its .modinfo section."""
    for text in module[_modinfo(module)].split(b"\0"):
        if text.startswith(b"depends="):
            return [name.replace("-", "_") for name in text[8:].decode().split(",") if name]
    return []


def _modinfo(elf: bytes) -> slice:
    """Where the section .modinfo of a 64-bit ELF file lies."""
    table, size, count, names = (
        struct.unpack_from("<Q", elf, 0x28)[0],
        *struct.unpack_from("<HHH", elf, 0x3A),
    )
    headers = [struct.unpack_from("<IIQQQQ", elf, table + size * number) for number in range(count)]
    strings = headers[names][4]
    for name, _, _, _, offset, length in headers:
        if elf[strings + name : strings + name + 9] == b".modinfo\0":
            return slice(offset, offset + length)
    return slice(0, 0)
