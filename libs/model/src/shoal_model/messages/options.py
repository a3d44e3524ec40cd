"""What a node is to be: the files it gets, before it boots and as a preview."""

from pydantic import Field

from shoal_model.messages.base import Message
from shoal_model.records import Name, Sha256, StoredFile


class OptionFile(Message):
    """A file that execd writes. Content stands here, or is fetched by its digest when options are too large."""

    path: str = Field(description="absolute")
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    content: bytes | None = None
    sha256: Sha256
    size: int


class OptionArchive(Message):
    """A Root FS customization to unpack over the root, with owner, group and mode kept."""

    name: Name
    archive: StoredFile


class OptionAction(Message):
    """A step that execd takes after the files are written; execd knows the verbs, see `docs/boot-process.md`."""

    verb: str
    arguments: list[str] = Field(default_factory=list)


class NodeOptions(Message):
    """`node.<node>.options`: everything a node is to be. `generation` is the hash of the rest."""

    node: Name
    generation: Sha256
    files: list[OptionFile]
    archives: list[OptionArchive]
    actions: list[OptionAction]
    sources: list[str] = Field(description="base URLs serving `<base>/blobs/<sha256>`")


class AnnounceRequest(Message):
    """`rpc.execd-config.v1.announce.<node>`: execd is there and waits for its options."""

    boot: str = Field(max_length=64)
    release: str = Field("", max_length=64)


class AnnounceReply(Message):
    """The generation that is being sent."""

    generation: Sha256


class PreviewRequest(Message):
    """`rpc.execd-config.v1.preview`: what this node would get now."""

    node: Name


class PreviewFile(Message):
    """One file, byte for byte, or a link or directory. `content` is None above 256 KiB: fetch it by its digest."""

    path: str
    kind: str = Field(description="file, symlink or directory")
    mode: int
    uid: int
    gid: int
    origin: str = Field(description="`options`, or the Root FS customization it comes from")
    content: bytes | None = None
    target: str | None = None
    sha256: Sha256 | None = None
    size: int = 0


class PreviewReply(Message):
    """See `PreviewRequest`."""

    node: Name
    generation: Sha256
    files: list[PreviewFile]
    actions: list[OptionAction]
