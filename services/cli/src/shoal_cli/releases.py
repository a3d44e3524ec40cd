"""What was made of records: the build of an image that nodes get now, the archive of a committed tree."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ValidationError

from shoal_bus.api import Bus
from shoal_bus.errors import Invalid
from shoal_cli import registry
from shoal_cli.terminal import plain, safe, size
from shoal_model.messages import Message, Status
from shoal_model.records import Image, ImageManifest, ImageRelease, Kind, RootfsRelease

R = TypeVar("R", bound=BaseModel)

Records = Mapping[str, Mapping[str, Any]]


class JobEvent(Message):
    """What `evt.job.<id>.progress` and `evt.job.<id>.done` have in common: `status` tells which it is."""

    job: str
    image: str
    step: str | None = None
    fraction: float | None = None
    status: Status | None = None
    reason: str | None = None
    digest: str | None = None
    at: AwareDatetime


@dataclass(frozen=True)
class Release:
    """What was made of one record: cells of a table, and plain data for scripts."""

    cells: tuple[str, ...]
    data: dict[str, Any]


@dataclass(frozen=True)
class Reader:
    """How to learn what was made of the records of a kind; `columns` are the headers of `Release.cells`."""

    columns: tuple[str, ...]
    read: Callable[[Bus, Records], Awaitable[dict[str, Release]]]


def of_image(image: Image, release: ImageRelease | None, job: JobEvent | None) -> Release:
    """The build that nodes get, if there is one, and how it stands; `job` is the latest event of its builds."""
    state = _state(image, release, job)
    if release is None:
        return Release(("-", "-", "-", safe(state)), {"state": state})
    digest, bytes_ = release.digest, release.manifest.squashfs.size
    data = {"version": release.manifest.version, "digest": digest, "size": bytes_, "built": release.built.isoformat()}
    return Release((digest[:12], size(bytes_), plain(release.built), safe(state)), {"state": state, **data})


def of_tree(release: RootfsRelease | None) -> Release:
    """The archive that nodes get, if the tree was committed."""
    if release is None:
        return Release(("-", "-", "-", "not committed"), {"state": "not committed"})
    archive, committed = release.archive, release.committed
    cells = (archive.sha256[:12], str(release.files), size(archive.size), plain(committed))
    data = {"sha256": archive.sha256, "files": release.files, "size": archive.size, "committed": committed.isoformat()}
    return Release(cells, {"state": "committed", **data})


def _state(image: Image, release: ImageRelease | None, job: JobEvent | None) -> str:
    """A build that went on or failed after the last one that was published says more than that one."""
    if job is not None and (release is None or job.at > release.built):
        if job.status is Status.FAILED:
            return f"build failed: {job.reason or 'no reason given'}"
        if job.status is None:
            return f"building: {job.step or 'begins'}"
    if release is None:
        return "not built"
    return "built" if _is_of(release.manifest, image) else "built before its record was changed"


def _is_of(manifest: ImageManifest, image: Image) -> bool:
    """Whether a build is of an image as it is recorded. A recorded version `1.0` stands for the newest `1.0.x`."""
    version = manifest.version == image.version or manifest.version.startswith(f"{image.version}.")
    modules = {module.name for module in manifest.modules} == set(image.modules)
    return version and modules and manifest.flavor == image.flavor


async def _images(bus: Bus, records: Records) -> dict[str, Release]:
    releases = await _of_kind(bus, Kind.IMAGE_RELEASE, ImageRelease)
    jobs = {event.image: event for _, _, event in await bus.latest("evt.job.>", JobEvent)}
    return {
        name: of_image(_read(Image, name, record), releases.get(name), jobs.get(name))
        for name, record in records.items()
    }


async def _trees(bus: Bus, records: Records) -> dict[str, Release]:
    releases = await _of_kind(bus, Kind.ROOTFS_RELEASE, RootfsRelease)
    return {name: of_tree(releases.get(name)) for name in records}


async def _of_kind(bus: Bus, kind: Kind, model: type[R]) -> dict[str, R]:
    found = await registry.records(bus, kind)
    return {name: _read(model, name, record) for name, record in found.records.items()}


def _read(model: type[R], name: str, record: Mapping[str, Any]) -> R:
    try:
        return model.model_validate(record)
    except ValidationError as error:
        problem = error.errors()[0]
        what = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        raise Invalid(
            f"the {model.__name__} of {name} cannot be read ({what}): is this shoal as new as its head?"
        ) from None


READERS: Mapping[Kind, Reader] = {
    Kind.IMAGE: Reader(("release", "size", "built", "state"), _images),
    Kind.ROOTFS: Reader(("archive", "files", "size", "committed"), _trees),
}
