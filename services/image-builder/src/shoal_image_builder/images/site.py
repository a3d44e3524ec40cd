"""The site's own layer: root's password, the operator's files, and the record of what the image was made from.

It is small and comes last, so that everything below it is the same in every cluster.
"""

import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shoal_image_builder.layers.directory import directory_sources
from shoal_image_builder.layers.entry import Entry, LayerError, Type
from shoal_image_builder.layers.layer import LooseLayer, file_source, loose
from shoal_image_builder.layers.tar import Source
from shoal_image_builder.modules.shelf import Module

DOCUMENTS = "usr/share/doc/shoal-image"
_LOCKED = "*"
_MERGED = ("bin", "sbin", "lib", "lib64")


def site_layer(modules: Sequence[Module], trees: Sequence[Path], password: str, epoch: int) -> LooseLayer:
    """The layer of this cluster for an image of these modules.

    `trees` are directories whose content is copied, later ones over earlier ones; missing ones count as empty.
    `password` is root's password as crypt(5) has it. Raises LayerError for what cannot be in an image.
    """
    sources: dict[str, Source] = {}
    for tree in trees:
        sources |= {source.entry.path: source for source in copy_tree(tree, epoch)}
    for module in modules:
        for kind in ("packages.version", "contents"):
            path = f"{DOCUMENTS}/{module.name}.{kind}.gz"
            entry = Entry(path, Type.FILE, 0o644, mtime=epoch)
            sources[path] = file_source(entry, gzip.compress(module.text(kind), 9, mtime=0))
    shadow = Entry("etc/shadow", Type.FILE, 0o640, mtime=epoch)
    if shadow.path in sources:
        raise LayerError(f"{shadow.path} cannot be copied into an image: its accounts come from the modules")
    sources[shadow.path] = file_source(shadow, f"root:{password}\n".encode())
    return loose("site", list(sources.values()))


def root_password(shadow: Path) -> str:
    """root's password field from a shadow(5) file; locked where there is none, or where it cannot be read.

    The file is bytes: whatever else stands in it plays no part. LayerError if the field itself is no crypt(5).
    """
    try:
        lines = shadow.read_bytes().splitlines()
    except OSError:
        return _LOCKED
    for line in lines:
        name, _, rest = line.partition(b":")
        password = rest.partition(b":")[0]
        if name == b"root" and password.startswith(b"$"):
            if not password.isascii():
                raise LayerError(f"{shadow}: root's password is not ASCII, as crypt(5) has it: set it anew with passwd")
            return password.decode("ascii")
    return _LOCKED


def copy_tree(tree: Path, epoch: int) -> list[Source]:
    """The members of a directory, with their owners and modes; nothing where it does not exist.

    `bin`, `sbin`, `lib` and `lib64` at the top become those of `usr`, as they are in the image.
    """
    return [_copied(source, epoch) for source in directory_sources(tree)] if tree.is_dir() else []


def _copied(source: Source, epoch: int) -> Source:
    path = source.entry.path
    if path.partition("/")[0] in _MERGED:
        path = f"usr/{path}"
    entry = replace(source.entry, path=path, mtime=epoch)
    if source.open is None:
        return Source(entry)
    with source.open() as content:  # read now: the image's identity and its content must be of one moment
        return file_source(entry, content.read())
