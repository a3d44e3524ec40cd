"""What stage 1 asks of the kernel, asked of a real one: the union, the boot NIC. In namespaces of their own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.secure import certified
from lab.space import LabError, Namespace, run

pytestmark = pytest.mark.integration

_UNION = """
import sys
from pathlib import Path
from shoal_execd import union
folder = Path(sys.argv[1])
paths = union.Paths(union=folder / "union", root=folder / "newroot")
image = (folder / "image").read_bytes()
try:
    union.room_for(len(image), paths)
    paths.file.write_bytes(image)
    union.assemble(paths, "8m")
except union.MountFailed as error:
    sys.exit(str(error))
root = paths.root
print((root / "etc/release").read_text(), end="")
(root / "etc/release").write_text("changed\\n")
(root / "new").write_text("new\\n")
print((root / "etc/release").read_text(), (paths.union / "image/etc/release").read_text(), sep="", end="")
print(sorted(each.name for each in (paths.union / "rw/upper").iterdir()))
try:
    (paths.union / "image/etc/release").write_text("no")
except OSError as error:
    print(error.strerror)
try:
    (root / "large").write_bytes(bytes(9 << 20))
except OSError as error:
    print(error.strerror)
"""

_SECRET = """
import sys
from pathlib import Path
from shoal_execd import stage1, union
from shoal_execd.handover import BootState, load_identity
from shoal_execd.identity import Identity
from shoal_identity.keys import Key
from shoal_identity.trust import Trust
folder = Path(sys.argv[1])
state = BootState("n001", "b1", ["tls://h"], "h", "10.0.0.2", ["https://h"], "0", "25%", "/log")
identity = Identity(Key.new(), Trust((folder / "ca.pem").read_text()))
union.mount("run", folder / "run", "tmpfs")
stage1.hand_over(state, identity, folder / "run/shoal")
union.move(folder / "run", folder / "newroot/run")
run = folder / "newroot/run/shoal"
kinds = dict(line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
print(kinds[str(run / "secret")], oct((run / "secret").stat().st_mode), oct((run / "secret/key").stat().st_mode))
print(load_identity(state, run) == identity, list((folder / "run").iterdir()))
"""

_NETWORK = """
import sys
from pathlib import Path
from shoal_execd import network, processes
from shoal_execd.cmdline import Address
from shoal_execd.journal import Journal
network.BUSYBOX = "/bin/busybox"
for _ in range(2):
    network.configure(sys.argv[1] if _ == 0 else network.NAME, Address("10.77.0.11", 24, "10.77.0.254", "n001"))
network.await_carrier(Journal("stage1", []), net=Path("/sys/class/net"), patience=network.Patience())
"""


@pytest.fixture
def space() -> Iterator[Namespace]:
    with Namespace() as space:
        yield space


def squashfs(folder: Path, *, init: bool = True) -> None:
    tree = folder / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/release").write_text("from the image\n")
    if init:
        (tree / "sbin").mkdir()
        (tree / "sbin/init.shoal").write_text("#!/bin/sh\n")
        (tree / "sbin/init.shoal").chmod(0o755)
    subprocess.run(["mksquashfs", tree, folder / "image", "-quiet", "-no-progress"], check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # A node keeps its loop device for life; this machine must not.
    listed = subprocess.run(["losetup", "--list", "--json"], capture_output=True, check=True, text=True).stdout
    for device in json.loads(listed or '{"loopdevices": []}')["loopdevices"]:
        if device["back-file"].startswith((str(tmp_path), "/image.squashfs")):
            subprocess.run(["losetup", "--detach", device["name"]], check=True)


def test_the_union_shows_the_image_and_takes_changes_in_memory(space: Namespace, folder: Path) -> None:
    squashfs(folder)
    said = run(space, sys.executable, "-c", _UNION, str(folder)).splitlines()
    assert said == [
        "from the image",
        "changed",
        "from the image",
        "['etc', 'new']",
        "Read-only file system",
        "No space left on device",
    ]


def test_an_image_without_its_init_is_named(space: Namespace, folder: Path) -> None:
    squashfs(folder, init=False)
    with pytest.raises(LabError, match=r"the image has no /sbin/init\.shoal"):
        run(space, sys.executable, "-c", _UNION, str(folder))


def test_what_is_no_squashfs_is_named(space: Namespace, folder: Path) -> None:
    (folder / "image").write_bytes(bytes(1 << 20))
    with pytest.raises(LabError, match=r"squashfs /dev/loop.*Invalid argument"):
        run(space, sys.executable, "-c", _UNION, str(folder))


def test_the_key_lies_in_memory_that_is_never_swapped_and_moves_along_with_run(
    space: Namespace, tmp_path: Path
) -> None:
    trust, _ = certified(tmp_path)
    (tmp_path / "ca.pem").write_text(trust.ca)
    (tmp_path / "newroot/run").mkdir(parents=True)
    said = run(space, sys.executable, "-c", _SECRET, str(tmp_path)).splitlines()
    assert said == ["ramfs 0o40700 0o100600", "True []"]


def test_the_boot_nic_is_renamed_addressed_and_routed_however_often(space: Namespace) -> None:
    run(space, "ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
    run(space, "ip", "link", "set", "x0", "up")  # as firmware or a driver may have left it
    run(space, "ip", "link", "set", "x1", "up")
    run(space, sys.executable, "-c", _NETWORK, "x0")
    (boot,) = json.loads(run(space, "ip", "-j", "-4", "addr", "show", "dev", "boot0"))
    assert [(each["local"], each["prefixlen"]) for each in boot["addr_info"]] == [("10.77.0.11", 24)]
    (route,) = json.loads(run(space, "ip", "-j", "route", "show", "default"))
    assert (route["gateway"], route["dev"]) == ("10.77.0.254", "boot0")
