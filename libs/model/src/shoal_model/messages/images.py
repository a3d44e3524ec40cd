"""Images and Root FS customizations on their way into the store: builds, jobs, modules."""

from pydantic import AwareDatetime, Field

from shoal_model.messages.base import Message
from shoal_model.messages.fleet import Status
from shoal_model.records import Name, Sha256, StoredFile


class BuildImageJob(Message):
    """`job.image.build`: make sure that image `name`, as it is recorded now, is built and published."""

    name: Name


class BuildRequest(Message):
    """`rpc.image-builder.v1.build`: enqueue a build of an image; a build already waiting or running is joined."""

    name: Name


class BuildReply(Message):
    """The id under which `evt.job.<id>.progress` and `evt.job.<id>.done` will tell of it."""

    job: Name


class JobProgress(Message):
    """`evt.job.<id>.progress`: a step of a job began."""

    job: Name
    image: Name
    step: str
    at: AwareDatetime
    fraction: float | None = Field(None, ge=0, le=1)


class JobDone(Message):
    """`evt.job.<id>.done`: a job ended, with the reason if it failed."""

    job: Name
    image: Name
    status: Status
    reason: str | None = None
    digest: Sha256 | None = None
    at: AwareDatetime


class ImagePublished(Message):
    """`evt.image.<name>.published`: nodes that boot from now on get this build."""

    name: Name
    digest: Sha256
    at: AwareDatetime


class CommitRootfsRequest(Message):
    """`rpc.image-builder.v1.commit-rootfs`: pack the tree of a Root FS customization as it is on disk now."""

    name: Name


class CommitRootfsReply(Message):
    """The archive it became."""

    archive: StoredFile
    files: int


class ModuleInfo(Message):
    """An image module that this head offers."""

    name: Name
    version: str
    flavor: Name
    sha256: Sha256
    size: int
    packages: int
    description: str = ""


class ModulesReply(Message):
    """`rpc.image-builder.v1.modules`: the modules on offer."""

    modules: list[ModuleInfo]
