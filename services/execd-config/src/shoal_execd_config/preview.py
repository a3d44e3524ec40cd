"""What a node would get, byte for byte: its files, and the members of its customizations laid over them."""

import hashlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from shoal_model.messages import NodeOptions, PreviewFile, PreviewReply

SHOWN = 256 << 10
"""Bytes of a content that is shown; a larger one is named by its digest."""
_SHOWN_IN_ALL = 768 << 10
_MOST = 20_000

OPTIONS = "options"
_KINDS = {tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "symlink"}


class ArchiveProblem(Exception):
    """A customization's archive cannot be shown; the text names it."""


class NamedArchive(NamedTuple):
    """A customization and where its tar archive lies."""

    name: str
    path: Path


def preview(options: NodeOptions, archives: Sequence[NamedArchive]) -> PreviewReply:
    """Lay everything over one another in the order in which the node does it. Blocking. Raises ArchiveProblem."""
    tree = {
        file.path: PreviewFile(
            path=file.path,
            kind="file",
            mode=file.mode,
            uid=file.uid,
            gid=file.gid,
            origin=OPTIONS,
            content=file.content,
            sha256=file.sha256,
            size=file.size,
        )
        for file in options.files
    }
    for archive in archives:
        tree |= {file.path: file for file in members(archive)}
        if len(tree) > _MOST:
            raise ArchiveProblem(f"a preview shows {_MOST} files at most; customization {archive.name} has more")
    return PreviewReply(
        node=options.node,
        generation=options.generation,
        files=list(_bounded(tree)),
        actions=options.actions,
    )


def members(archive: NamedArchive) -> list[PreviewFile]:
    """The files, directories and links of a customization. Raises ArchiveProblem."""
    found: list[PreviewFile] = []
    try:
        with tarfile.open(archive.path, "r:") as tar:
            for member in tar:
                if _path(member) != "/":
                    found.append(_shown(tar, member, archive.name))
                if len(found) > _MOST:
                    raise ArchiveProblem(f"customization {archive.name} has more than {_MOST} files")
    except (tarfile.TarError, OSError, KeyError) as error:
        raise ArchiveProblem(f"customization {archive.name} cannot be read: {error}") from error
    return found


def _path(member: tarfile.TarInfo) -> str:
    return str(PurePosixPath("/") / member.name)


def _shown(tar: tarfile.TarFile, member: tarfile.TarInfo, origin: str) -> PreviewFile:
    kind = "file" if member.islnk() else _KINDS.get(member.type)
    if kind is None or ".." in PurePosixPath(member.name).parts or member.name.startswith("/"):
        raise ArchiveProblem(f"customization {origin}: {member.name!r} is nothing that a node would unpack")
    shown = PreviewFile(
        path=_path(member),
        kind=kind,
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        origin=origin,
        target=member.linkname if kind == "symlink" else None,
    )
    return shown if kind != "file" else shown.model_copy(update=_content(tar, member))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Mapping[str, object]:
    hasher, kept, size = hashlib.sha256(), b"", 0
    source = tar.extractfile(member)  # of a hard link: the file that it is a link to
    assert source is not None
    with source:
        while chunk := source.read(SHOWN):
            hasher.update(chunk)
            kept = chunk if not size else b""
            size += len(chunk)
    return {"content": kept if size <= SHOWN else None, "sha256": hasher.hexdigest(), "size": size}


def _bounded(tree: Mapping[str, PreviewFile]) -> Iterable[PreviewFile]:
    """In order of their paths; contents as long as they fit into an answer, digests after that."""
    left = _SHOWN_IN_ALL
    for path in sorted(tree):
        file = tree[path]
        left -= len(file.content or b"")
        yield file if left >= 0 else file.model_copy(update={"content": None})
