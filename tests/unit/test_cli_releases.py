"""What the command line says of images and trees: built, being built, failed, committed or none of it."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lab.cluster import FakeCluster
from shoal_bus.api import Bus
from shoal_cli.releases import JobEvent, of_image, of_tree
from shoal_model.messages import JobDone, JobProgress, Status
from shoal_model.records import Image, ImageRelease, Kind, compact
from shoal_model.subjects import event

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
IMAGE = Image(flavor="bookworm", version="1.0")
FILE = {"sha256": "a" * 64, "size": 312_400_000}
RELEASE = ImageRelease.model_validate(
    {
        "built": NOW,
        "manifest": {
            "image": "compute",
            "flavor": "bookworm",
            "version": "1.0.3",
            "identity": "1" * 64,
            "content": "2" * 64,
            "modules": [{"name": "core", "version": "1.0.3", "sha256": "3" * 64}],
            "kernel_version": "6.1",
            "squashfs": FILE,
            "kernel": FILE,
            "initrd": FILE,
            "blocks": [],
        },
    }
)
TREE = {"archive": {"sha256": "b" * 64, "size": 2048}, "files": 12, "committed": NOW.isoformat()}


def job(seconds: float, **more: Any) -> JobEvent:  # noqa: ANN401 - any field
    return JobEvent.model_validate({"job": "j", "image": "compute", "at": NOW + timedelta(seconds=seconds), **more})


FAILED = {"status": "failed", "reason": "no module slurm"}
STATES: list[tuple[Image, ImageRelease | None, JobEvent | None, str]] = [
    (IMAGE, None, None, "not built"),
    (IMAGE, None, job(0, step="merge layers"), "building: merge layers"),
    (IMAGE, None, job(0, **FAILED), "build failed: no module slurm"),
    (IMAGE, RELEASE, None, "built"),
    (IMAGE, RELEASE, job(1, status="ok"), "built"),
    (IMAGE, RELEASE, job(-1, **FAILED), "built"),
    (IMAGE, RELEASE, job(-1, step="publish"), "built"),
    (IMAGE, RELEASE, job(1, **FAILED), "build failed: no module slurm"),
    (IMAGE, RELEASE, job(1, step="merge layers"), "building: merge layers"),
    (IMAGE.model_copy(update={"version": "1.0.3"}), RELEASE, None, "built"),
    (IMAGE.model_copy(update={"version": "1"}), RELEASE, None, "built"),
    (IMAGE.model_copy(update={"version": "1.1"}), RELEASE, None, "built before its record was changed"),
    (IMAGE.model_copy(update={"flavor": "trixie"}), RELEASE, None, "built before its record was changed"),
    (IMAGE.model_copy(update={"modules": ["core", "x"]}), RELEASE, None, "built before its record was changed"),
]


@pytest.mark.parametrize(("image", "release", "latest", "state"), STATES)
def test_how_an_image_stands(image: Image, release: ImageRelease | None, latest: JobEvent | None, state: str) -> None:
    made = of_image(image, release, latest)
    assert made.cells[-1] == made.data["state"] == state
    assert made.cells[:2] == (("-", "-") if release is None else ("aaaaaaaaaaaa", "312.4 MB"))
    assert made.data.get("digest") == (None if release is None else "a" * 64)


def test_a_reason_from_elsewhere_does_not_control_the_terminal() -> None:
    assert of_image(IMAGE, None, job(0, status="failed", reason="\x1b[2J")).cells[-1] == "build failed: \\x1b[2J"


def test_a_tree_that_was_never_committed() -> None:
    assert (of_tree(None).cells[-1], of_tree(None).data) == ("not committed", {"state": "not committed"})


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(
        {
            Kind.IMAGE: {"compute": compact(IMAGE), "login": compact(IMAGE)},
            Kind.IMAGE_RELEASE: {"compute": RELEASE.model_dump(mode="json")},
            Kind.ROOTFS: {"motd": {}, "site": {"description": "of the site"}},
            Kind.ROOTFS_RELEASE: {"motd": TREE},
        }
    )


def emitting(*events: JobProgress | JobDone) -> Callable[[Bus], Awaitable[None]]:
    async def emit(bus: Bus) -> None:
        for told in events:
            await bus.emit(event("job", told.job, "done" if isinstance(told, JobDone) else "progress"), told)

    return emit


def test_image_list_and_show(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    done = JobDone(job="j1", image="login", status=Status.OK, at=NOW)
    failed = JobDone(job="j2", image="login", status=Status.FAILED, reason="no module x", at=NOW)
    cluster.on_connect = emitting(
        done, JobProgress(job="j2", image="login", step="merge", at=NOW), failed, done.model_copy(update={"image": "x"})
    )
    assert cluster.shoal("image", "list") == 0
    head, compute, login = capsys.readouterr().out.splitlines()
    assert head.split()[-4:] == ["RELEASE", "SIZE", "BUILT", "STATE"]
    built = NOW.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert compute.endswith(f"  aaaaaaaaaaaa  312.4 MB  {built}  built")
    assert login.split()[-8:] == ["-", "-", "-", "build", "failed:", "no", "module", "x"]
    assert cluster.shoal("image", "show", "login", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["release"] == {"state": "build failed: no module x"}
    assert cluster.shoal("image", "show", "compute") == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["release.digest", "a" * 64] in told
    assert ["release.state", "built"] in told


def test_rootfs_list(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.shoal("rootfs", "list") == 0
    head, motd, site = capsys.readouterr().out.splitlines()
    assert head.split() == ["ROOTFS", "DESCRIPTION", "ARCHIVE", "FILES", "SIZE", "COMMITTED"]
    assert motd.split()[2:6] == ["bbbbbbbbbbbb", "12", "2.0", "kB"]
    assert site.endswith("  -             -      -       not committed")
    assert cluster.shoal("rootfs", "list", "motd", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["motd"]["release"]["files"] == 12


def test_a_release_that_cannot_be_read_is_no_bug(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.records[Kind.ROOTFS_RELEASE] = {"motd": {**TREE, "from_the_future": 1}}
    assert cluster.shoal("rootfs", "list") == 1
    error = capsys.readouterr().err
    assert error.startswith("shoal: the RootfsRelease of motd cannot be read (from_the_future: Extra inputs")
    assert error.count("\n") == 1
