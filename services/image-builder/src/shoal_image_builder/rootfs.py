"""Root FS customizations: a directory as it is now, as a tar archive with the same bytes for the same content."""

from collections.abc import Sequence
from pathlib import Path

from shoal_image_builder.layers.directory import directory_sources
from shoal_image_builder.layers.entry import LayerError
from shoal_image_builder.layers.tar import Source, TarWriter

LARGEST = 8 << 30
"""Bytes of an archive that nodes take at most."""
_MOST = 1_000_000
"""Members that they take at most."""
_BLOCK = 512


class BadTree(Exception):
    """A tree cannot be packed. The text names the member and says what to do."""


def pack_tree(tree: Path, out: Path) -> int:
    """Pack everything below `tree` into the tar archive `out`; the number of members.

    BadTree for a tree that is missing, too large, or changes meanwhile, and for what cannot be given to a node.
    """
    if not tree.is_dir():
        raise BadTree(f"there is no directory {tree}: make it, and put into it what nodes are to get")
    try:
        sources = directory_sources(tree)
    except LayerError as error:
        raise BadTree(str(error)) from error
    _check_size(tree, sources)
    with out.open("wb") as file:
        archive = TarWriter(file)
        for source in sources:
            _add(archive, source)
        archive.close()
        if file.tell() > LARGEST:  # headers and padding count, too
            raise BadTree(f"{tree} makes an archive of more than the {LARGEST >> 30} GiB that a node takes")
    return len(sources)


def _check_size(tree: Path, sources: Sequence[Source]) -> None:
    """Before anything is written: nodes would refuse the archive."""
    size = sum(_BLOCK + source.entry.size for source in sources)
    if size > LARGEST:
        raise BadTree(
            f"{tree} is {size / (1 << 30):.1f} GiB; a node takes {LARGEST >> 30} GiB at most: make it smaller"
        )
    if len(sources) > _MOST:
        raise BadTree(f"{tree} has {len(sources)} members; a node takes {_MOST} at most: make it smaller")


def _add(archive: TarWriter, source: Source) -> None:
    if source.open is None:
        archive.add(source.entry)
        return
    try:
        with source.open() as content:
            archive.add(source.entry, content)
    except OSError as error:
        raise BadTree(f"{source.entry.path} cannot be read: {error.strerror}") from error
    except LayerError as error:
        raise BadTree(f"{error}; it was written to meanwhile, so commit again") from error
