"""Root FS customizations: a directory as it is now, as a tar archive with the same bytes for the same content."""

from pathlib import Path

from shoal_image_builder.layers.directory import directory_sources
from shoal_image_builder.layers.entry import LayerError
from shoal_image_builder.layers.tar import Source, TarWriter


class BadTree(Exception):
    """A tree cannot be packed. The text names the member and says what to do."""


def pack_tree(tree: Path, out: Path) -> int:
    """Pack everything below `tree` into the tar archive `out`; the number of members.

    BadTree for a missing tree, for what cannot be given to a node, and for a tree that changes meanwhile.
    """
    if not tree.is_dir():
        raise BadTree(f"there is no directory {tree}: make it, and put into it what nodes are to get")
    try:
        sources = directory_sources(tree)
    except LayerError as error:
        raise BadTree(str(error)) from error
    with out.open("wb") as file:
        archive = TarWriter(file)
        for source in sources:
            _add(archive, source)
        archive.close()
    return len(sources)


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
