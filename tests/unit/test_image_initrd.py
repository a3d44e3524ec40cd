"""The initrd: its archive as cpio(1) reads it, and which kernel modules are in it."""

import io
import os
import subprocess
from pathlib import Path

import pytest

from lab.image_layers import EPOCH, directory, file, layer, link
from shoal_image_builder.images import cpio, initrd
from shoal_image_builder.images.kernel_modules import ESSENTIAL, closure
from shoal_image_builder.layers.entry import LayerError

_BUILTIN = "".join(f"kernel/{name}.ko\n" for name in ESSENTIAL)


def _archive() -> bytes:
    out = io.BytesIO()
    made = layer("initrd", directory("dev"), file("init", "#!/x\n", mode=0o755, uid=3), link("bin/sh", "/busybox"))
    cpio.write(made.members(), out)
    return out.getvalue()


def test_cpio_reads_the_archive() -> None:
    argv = ["cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet"]
    listed = subprocess.run(argv, input=_archive(), capture_output=True, check=True, env={"TZ": "UTC"})
    lines = [line.split() for line in listed.stdout.decode().splitlines()]
    assert listed.stderr == b""
    found = {line[line.index("->") - 1] if "->" in line else line[-1]: line for line in lines}
    assert list(found) == [
        "bin",
        "bin/sh",
        "dev",
        *(f"dev/{name}" for name in ("console", "null", "random", "urandom")),
        "init",
    ]
    assert found["init"][:5] == ["-rwxr-xr-x", "1", "3", "0", "5"]
    assert found["dev/console"][:2] == ["crw-------", "1"]
    assert found["dev/console"][4:6] == ["5,", "1"]
    assert found["dev/urandom"][4:6] == ["1,", "9"]
    assert found["bin/sh"][-3:] == ["bin/sh", "->", "/busybox"]


def test_cpio_unpacks_content(tmp_path: Path) -> None:
    argv = ["cpio", "--extract", "--quiet", "--preserve-modification-time", "init", "bin", "bin/sh"]
    subprocess.run(argv, input=_archive(), check=True, cwd=tmp_path)
    assert (tmp_path / "init").read_text() == "#!/x\n"
    assert int((tmp_path / "init").stat().st_mtime) == EPOCH
    assert os.readlink(tmp_path / "bin/sh") == "/busybox"


def test_the_archive_is_the_same_each_time() -> None:
    assert _archive() == _archive()


def test_parts_begin_at_multiples_of_four_bytes(tmp_path: Path) -> None:
    for name, size in (("a", 5), ("b", 3), ("c", 4)):
        (tmp_path / name).write_bytes(name.encode() * size)
    initrd.join([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"aaaaa\0\0\0bbb\0cccc"


def test_a_module_brings_what_it_needs() -> None:
    needs = (
        "kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko\n"
        "kernel/drivers/virtio/virtio.ko:\n"
        "kernel/net/core/failover.ko:\n"
        "kernel/sound/snd.ko:\n"
        "kernel/drivers/hid/hid-generic.ko.xz:\n"
    )
    assert closure(needs, _BUILTIN) == [
        "kernel/drivers/hid/hid-generic.ko.xz",
        "kernel/drivers/net/virtio_net.ko",
        "kernel/drivers/virtio/virtio.ko",
        "kernel/net/core/failover.ko",
    ]


def test_a_kernel_without_squashfs_is_refused() -> None:
    with pytest.raises(LayerError, match="this kernel has no loop, squashfs, without which no node boots"):
        closure("kernel/fs/overlay.ko:\n", "kernel/net/af_packet.ko\n")
