"""Finished builds in the image store: one manifest each, beside the blobs that it names.

<store>/manifests/<squashfs sha256>.json   an ImageManifest
<store>/initrds/<key>-<sha256>             large archives of initrds, kept to be used again

What a disk made of these files in the meantime nobody knows: they are read before they count.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from pydantic import ValidationError

from shoal_image_builder.process import Cancel
from shoal_model.records import Geometry, ImageManifest
from shoal_service.store import BlobStore

_log = structlog.get_logger(__name__)
_WORK = ".build-"
_YOUNG = 60.0
"""Seconds for which a builder's directory is left alone, locked or not."""
_KEPT_INITRDS = 4


class Builds:
    """The builds of one store. Methods block."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._manifests = store.root / "manifests"
        self._initrds = store.root / "initrds"

    def all(self) -> list[ImageManifest]:
        """Every build, newest first. A manifest that cannot be read is no build."""
        paths = sorted(self._manifests.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [manifest for manifest in map(_read, paths) if manifest is not None]

    def of_identity(self, identity: str, cancel: Cancel) -> ImageManifest | None:
        """The build of this identity, if all its files are there and what its manifest says. What is not is removed."""
        for manifest in self.all():
            if manifest.identity == identity and self._sound(manifest, cancel):
                return manifest
        return None

    def publish(self, manifest: ImageManifest) -> None:
        """Write the manifest of a build whose files stand in the store; from then on it counts."""
        write_atomically(self._path(manifest), (manifest.model_dump_json(indent=1) + "\n").encode())

    def prune(self, keep: int, in_use: Collection[str]) -> list[str]:
        """Remove all but the newest `keep` builds of each image, and never one whose squashfs digest is in use.

        Gives the digests of what was removed. Blobs that no build names (archives of trees) are not touched.
        """
        counted: dict[str, int] = {}
        doomed: list[ImageManifest] = []
        kept: list[ImageManifest] = []
        for manifest in self.all():
            counted[manifest.image] = counted.get(manifest.image, 0) + 1
            old = counted[manifest.image] > keep and manifest.squashfs.sha256 not in in_use
            (doomed if old else kept).append(manifest)
        needed = {digest for manifest in kept for digest in _blobs(manifest)}
        for manifest in doomed:
            self._path(manifest).unlink(missing_ok=True)
            for digest in _blobs(manifest) - needed:
                self.store.path(digest).unlink(missing_ok=True)
        return [manifest.squashfs.sha256 for manifest in doomed]

    def initrd(self, key: str, make: Callable[[Path], None], cancel: Cancel) -> Path:
        """The large archive of an initrd under this key: kept whole from an earlier build, or made now by `make`."""
        kept = self._kept_initrd(key, cancel)
        if kept is None:
            self._initrds.mkdir(parents=True, exist_ok=True)
            with self.workspace() as work:
                make(work / key)
                digest, _ = hashes(work / key, Geometry(), cancel)
                kept = self._initrds / f"{key}-{digest}"
                os.replace(work / key, kept)
        os.utime(kept)
        for old in sorted(self._initrds.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-_KEPT_INITRDS]:
            old.unlink(missing_ok=True)
        return kept

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A directory beside the blobs, gone afterwards. What builders that were killed left is removed as well."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        _remove_stale(self.store.root)
        with tempfile.TemporaryDirectory(prefix=_WORK, dir=self.store.root) as work:
            lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel takes it away from a process that dies
                yield Path(work)
            finally:
                os.close(lock)

    def _path(self, manifest: ImageManifest) -> Path:
        return self._manifests / f"{manifest.squashfs.sha256}.json"

    def _sound(self, manifest: ImageManifest, cancel: Cancel) -> bool:
        files = (manifest.squashfs, manifest.kernel, manifest.initrd)
        paths = [self.store.path(file.sha256) for file in files]
        blocks = [_whole(path, path.name, manifest.geometry, cancel) for path in paths]
        if None in blocks or blocks[0] != manifest.blocks:
            return False
        return [path.stat().st_size for path in paths] == [file.size for file in files]

    def _kept_initrd(self, key: str, cancel: Cancel) -> Path | None:
        for path in self._initrds.glob(f"{key}-*"):
            if _whole(path, path.name.removeprefix(f"{key}-"), Geometry(), cancel) is not None:
                return path
        return None


def hashes(path: Path, geometry: Geometry, cancel: Cancel) -> tuple[str, list[str]]:
    """SHA-256 of a file, and of each of its blocks in order, in one pass. Raises Cancelled."""
    whole, blocks = hashlib.sha256(), []
    with path.open("rb") as file:
        while block := file.read(geometry.block_size):
            cancel.check()
            whole.update(block)
            blocks.append(hashlib.sha256(block).hexdigest())
    return whole.hexdigest(), blocks


def _whole(path: Path, digest: str, geometry: Geometry, cancel: Cancel) -> list[str] | None:
    """The hashes of a file's blocks; None if it is missing, or damaged: then it is removed, nobody could use it."""
    try:
        found, blocks = hashes(path, geometry, cancel)
    except FileNotFoundError:
        return None
    except OSError as error:
        found, blocks = error.strerror or str(error), []
    if found == digest:
        return blocks
    _log.warning("store.damaged", file=str(path), expected=digest, found=found)
    path.unlink(missing_ok=True)
    return None


def _remove_stale(root: Path) -> None:
    for work in root.glob(f"{_WORK}*"):
        try:
            if time.time() - work.stat().st_mtime < _YOUNG:
                continue  # its builder may be about to lock it
            lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its builder has just finished
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(work, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in its place whole and durably, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _blobs(manifest: ImageManifest) -> set[str]:
    return {manifest.squashfs.sha256, manifest.kernel.sha256, manifest.initrd.sha256}


def _read(path: Path) -> ImageManifest | None:
    try:
        return ImageManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
