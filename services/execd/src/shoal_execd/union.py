"""The root of the node: image, tmpfs and chroot slot under /union, one overlay over them. mount(2), loop(4)."""

import ctypes
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_SET_FD = 0x4C00

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_MOVE = 1, 2, 4, 8, 32, 8192

INIT = "/sbin/init.shoal"

_MARGIN = 16 << 20
"""Bytes of RAM that must be left beside the image."""


class MountFailed(Exception):
    """A mount was refused; the text names what, where and why."""


@dataclass(frozen=True)
class Paths:
    """Where the parts of the union stand in the initrd."""

    union: Path = Path("/union")
    root: Path = Path("/newroot")

    @property
    def file(self) -> Path:
        """The image as a file, in the tmpfs of /union."""
        return self.union / "image.squashfs"


def mount(source: str, target: Path, kind: str, *, flags: int = 0, options: str = "") -> None:
    """mount(2); makes the mount point where it is missing. Raises MountFailed."""
    target.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [os.fsencode(text) for text in (source, str(target), kind)]
    if libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options) if options else None) != 0:
        reason = os.strerror(ctypes.get_errno())
        wanted = f"{kind or 'mount'} {source} on {target}" + (f" ({options})" if options else "")
        raise MountFailed(f"{wanted}: {reason}")


def move(source: Path, target: Path) -> None:
    """Move a mount, with everything mounted below it. Raises MountFailed."""
    mount(str(source), target, "", flags=MS_MOVE)


def mount_secret(target: Path) -> None:
    """Mount memory for secrets, root's alone: a ramfs, for what is in a tmpfs may be swapped. Raises MountFailed."""
    mount("secret", target, "ramfs", flags=MS_NOSUID | MS_NODEV | MS_NOEXEC, options="mode=0700")


def room_for(size: int, paths: Paths) -> None:
    """Make /union a tmpfs that takes an image of `size` bytes. Raises MountFailed if this node has not the memory."""
    available = memory_available()
    if available < size + _MARGIN:
        raise MountFailed(
            f"the image needs {size >> 20} MiB of RAM, but {available >> 20} MiB are left: give the node more memory "
            "or a smaller image"
        )
    again = MS_REMOUNT if os.path.ismount(paths.union) else 0
    mount("union", paths.union, "tmpfs", flags=MS_NODEV | again, options=f"mode=0755,size={size + _MARGIN}")


def memory_available(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that could still be used (`MemAvailable`)."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise MountFailed(f"{meminfo} tells no MemAvailable")


def attach(file: Path) -> str:
    """Attach a file to a loop device, read-only; the device. Raises MountFailed."""
    try:
        with open("/dev/loop-control", "rb") as control:
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        # Opened for reading alone, which makes the device read-only too.
        with open(file, "rb") as backing, open(device, "rb") as loop:
            fcntl.ioctl(loop, _LOOP_SET_FD, backing.fileno())
    except OSError as error:
        raise MountFailed(f"loop device for {file}: {error.strerror}") from error
    return device


def assemble(paths: Paths, root_size: str) -> None:
    """Mount image, tmpfs and the overlay over them and the empty chroot slot. Raises MountFailed."""
    image, writable, chroot = (paths.union / part for part in ("image", "rw", "chroot"))
    mount(attach(paths.file), image, "squashfs", flags=MS_RDONLY)
    mount("rw", writable, "tmpfs", options=f"mode=0755,size={root_size}")
    for folder in (chroot, writable / "upper", writable / "work"):
        folder.mkdir()
    layers = f"lowerdir={image}:{chroot},upperdir={writable / 'upper'},workdir={writable / 'work'}"
    mount("shoal", paths.root, "overlay", options=layers)
    if not os.access(paths.root / INIT.lstrip("/"), os.X_OK):
        raise MountFailed(f"the image has no {INIT} that can be run: its layer with execd is missing, build it again")


def move_along(paths: Paths) -> None:
    """Take the mounts that live on over into the new root. Raises MountFailed."""
    for path in (paths.union, Path("/run"), Path("/dev"), Path("/sys"), Path("/proc")):
        move(path, paths.root / path.relative_to("/"))
