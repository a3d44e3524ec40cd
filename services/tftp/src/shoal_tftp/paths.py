"""What a client's file name stands for in the one virtual tree. Pure: nothing is looked up here.

pxelinux.0, lpxelinux.0, *.c32, undionly.kpxe,
snponly.efi, snponly-arm64.efi, ipxe.efi                   loaders
pxelinux.cfg/<Hostid>, pxelinux.cfg/default, boot.ipxe     scripts, rendered when asked for
shoal/images/<image or digest>/{kernel,initrd,squashfs}    the image store
shoal/ca.crt                                               what nodes trust
everything else                                            the operator's own files
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shoal_model import names

LOADER_PACKAGES: Final[Mapping[str, str | None]] = {
    "pxelinux.0": "pxelinux",
    "lpxelinux.0": "pxelinux",
    "undionly.kpxe": "ipxe",
    "snponly.efi": "ipxe",
    "snponly-arm64.efi": None,
    "ipxe.efi": "ipxe",
}
"""Loaders beside SYSLINUX's modules (`*.c32`), and the Debian package that brings each, if one does."""
_MODULE, _MODULE_PACKAGE = ".c32", "syslinux-common"
_LONGEST = 1024
_HOST_ID = re.compile(r"[0-9A-F]{8}")


class Part(StrEnum):
    """The files of an image."""

    KERNEL = "kernel"
    INITRD = "initrd"
    SQUASHFS = "squashfs"


@dataclass(frozen=True)
class LoaderFile:
    """A boot loader, or a module of one; `package` is the Debian package that brings it. None: the operator does."""

    name: str
    package: str | None


@dataclass(frozen=True)
class NodeConfig:
    """`pxelinux.cfg/<Hostid>`: the script of the one node with this address."""

    host_id: str


@dataclass(frozen=True)
class DefaultConfig:
    """`pxelinux.cfg/default`: the script of whoever asks."""


@dataclass(frozen=True)
class IpxeScript:
    """`boot.ipxe`: the script of whoever asks, for iPXE."""


@dataclass(frozen=True)
class ImageFile:
    """A file of an image, by the image's name (its release of now) or by the digest of its squashfs."""

    image: str
    part: Part


@dataclass(frozen=True)
class TrustFile:
    """`shoal/ca.crt`: whom nodes trust, as `shoal.ca=` in the script of the one who asks names it."""


@dataclass(frozen=True)
class OwnFile:
    """A file that the operator put below SHOAL_TFTPBOOT; `path` is relative, with no `..` in it."""

    path: str


Wanted = LoaderFile | NodeConfig | DefaultConfig | IpxeScript | ImageFile | TrustFile | OwnFile


class BadPath(ValueError):
    """A file name that nobody asks for in good faith; the message tells what is wrong with it."""


def locate(name: str) -> Wanted:
    """What `name`, as a client sent it, stands for. Raises BadPath.

    A leading slash means nothing, and a backslash is a slash, as some firmware writes it.
    """
    parts = _parts(name)
    match parts:
        case ["boot.ipxe"]:
            return IpxeScript()
        case ["pxelinux.cfg", "default"]:
            return DefaultConfig()
        case ["pxelinux.cfg", host_id] if _HOST_ID.fullmatch(host_id):
            return NodeConfig(host_id)
        case ["shoal", "images", image, part] if part in tuple(Part) and _names_an_image(image):
            return ImageFile(image, Part(part))
        case ["shoal", "ca.crt"]:
            return TrustFile()
        case [loader] if loader in LOADER_PACKAGES:
            return LoaderFile(loader, LOADER_PACKAGES[loader])
        case [module] if module.endswith(_MODULE):
            return LoaderFile(module, _MODULE_PACKAGE)
    return OwnFile("/".join(parts))


def _parts(name: str) -> list[str]:
    if len(name) > _LONGEST:
        raise BadPath(f"a file name of {len(name)} characters: {_LONGEST} are allowed")
    if not name.isprintable():
        raise BadPath("the file name contains control characters, or is not UTF-8")
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        raise BadPath("the request names a directory, not a file")
    if ".." in parts:
        raise BadPath("the file name leads out of the tree")
    return parts


def _names_an_image(text: str) -> bool:
    for check in (names.name, names.digest):
        try:
            check(text)
        except ValueError:
            continue
        return True
    return False
