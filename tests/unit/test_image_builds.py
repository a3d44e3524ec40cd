"""Builds in the image store: found by identity while they are whole, pruned with care; and the node's code among the
installed packages.
"""

import hashlib
import os
from pathlib import Path

import pytest

from shoal_image_builder.images.builds import Builds, hashes
from shoal_image_builder.images.node import collect
from shoal_image_builder.process import Cancel, Cancelled
from shoal_model.records import Geometry, ImageManifest, StoredFile
from shoal_service.store import BlobStore


def _stored(store: BlobStore, text: str) -> StoredFile:
    source = store.root / "incoming"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    digest, size = store.add(source)
    return StoredFile(sha256=digest, size=size)


def _build(store: BlobStore, number: int, image: str = "compute") -> ImageManifest:
    squashfs = _stored(store, f"squashfs {image} {number}")
    manifest = ImageManifest(
        image=image,
        flavor="bookworm",
        version="1.0.0",
        identity=hashlib.sha256(f"{image}{number}".encode()).hexdigest(),
        content="0" * 64,
        modules=[],
        kernel_version="6.1",
        squashfs=squashfs,
        kernel=_stored(store, "the same kernel"),
        initrd=_stored(store, f"initrd {number}"),
        blocks=[squashfs.sha256],
    )
    builds = Builds(store)
    builds.publish(manifest)
    os.utime(store.root / "manifests" / f"{manifest.squashfs.sha256}.json", (number, number))
    return manifest


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


def test_a_build_is_found_by_its_identity_while_its_files_are_there(store: BlobStore) -> None:
    manifest = _build(store, 1)
    builds = Builds(store)
    assert builds.of_identity(manifest.identity, Cancel()) == manifest
    assert builds.of_identity("f" * 64, Cancel()) is None
    store.path(manifest.initrd.sha256).unlink()
    assert builds.of_identity(manifest.identity, Cancel()) is None


@pytest.mark.parametrize("part", ["squashfs", "kernel", "initrd"])
def test_a_build_with_a_flipped_bit_is_none_and_no_node_is_sent_it(store: BlobStore, part: str) -> None:
    manifest, builds = _build(store, 1), Builds(store)
    damaged = getattr(manifest, part).sha256
    _flip(store.path(damaged))
    assert builds.of_identity(manifest.identity, Cancel()) is None
    whole = {manifest.squashfs.sha256, manifest.kernel.sha256, manifest.initrd.sha256} - {damaged}
    assert {path.name for path in (store.root / "blobs").iterdir()} == whole
    assert _build(store, 1) == manifest
    assert builds.of_identity(manifest.identity, Cancel()) == manifest


@pytest.mark.parametrize(("part", "wrong"), [("blocks", ["d" * 64]), ("kernel", {"size": 3})])
def test_a_manifest_that_is_not_of_its_files_is_no_build(store: BlobStore, part: str, wrong: object) -> None:
    manifest = _build(store, 1)
    fields = manifest.model_dump()
    fields[part] = fields[part] | wrong if isinstance(wrong, dict) else wrong
    builds = Builds(store)
    builds.publish(ImageManifest.model_validate(fields))
    assert builds.of_identity(manifest.identity, Cancel()) is None
    assert all(store.has(file.sha256) for file in (manifest.squashfs, manifest.kernel, manifest.initrd))


def test_looking_whether_a_build_is_whole_can_be_cancelled(store: BlobStore) -> None:
    manifest, cancel = _build(store, 1), Cancel()
    cancel.throw()
    with pytest.raises(Cancelled):
        Builds(store).of_identity(manifest.identity, cancel)
    assert store.has(manifest.squashfs.sha256)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_manifest_is_no_build(store: BlobStore) -> None:
    manifest = _build(store, 1)
    (store.root / "manifests" / ("a" * 64 + ".json")).write_text("{}")
    assert Builds(store).all() == [manifest]


def test_old_builds_go_but_not_what_is_in_use_shared_or_of_others(store: BlobStore) -> None:
    manifests = [_build(store, number) for number in range(1, 6)]
    other = _build(store, 1, image="login")
    archive = _stored(store, "a customization")
    removed = Builds(store).prune(2, {manifests[0].squashfs.sha256})
    assert removed == [manifests[2].squashfs.sha256, manifests[1].squashfs.sha256]
    left = Builds(store).all()
    assert {manifest.identity for manifest in left} == {
        each.identity for each in (manifests[4], manifests[3], manifests[0], other)
    }
    for manifest in left:
        assert store.has(manifest.squashfs.sha256)
        assert store.has(manifest.initrd.sha256)
        assert store.has(manifest.kernel.sha256)
    assert store.has(archive.sha256)
    assert not store.has(manifests[1].squashfs.sha256)
    assert not store.has(manifests[2].initrd.sha256)


def test_what_a_killed_builder_left_is_removed_and_a_living_ones_is_not(store: BlobStore) -> None:
    store.root.mkdir(parents=True)
    dead, young = store.root / ".build-dead", store.root / ".build-young"
    for work in (dead, young):
        work.mkdir()
        (work / "squashfs").write_text("half")
    os.utime(dead, (0, 0))
    with Builds(store).workspace() as living:
        os.utime(living, (0, 0))
        with Builds(store).workspace() as second:
            assert sorted(path.name for path in store.root.iterdir()) == sorted([living.name, second.name, young.name])
    assert [path.name for path in store.root.iterdir()] == [young.name]


def test_large_archives_of_initrds_are_made_once_and_the_last_few_kept(store: BlobStore) -> None:
    builds, made = Builds(store), list[str]()

    def make(out: Path) -> None:
        made.append(out.name)
        out.write_text(out.name)

    for key in ("a", "b", "a", "c", "d", "e", "a", "b"):
        assert builds.initrd(key, make, Cancel()).read_text() == key
    assert made == ["a", "b", "c", "d", "e", "b"]
    with pytest.raises(OSError, match="no room"):
        builds.initrd("f", _fail, Cancel())
    kept = sorted((store.root / "initrds").iterdir())
    assert [path.name.partition("-")[0] for path in kept] == ["a", "b", "d", "e"]
    _flip(kept[0])
    assert builds.initrd("a", make, Cancel()).read_text() == "a"
    assert made[6:] == ["a"]
    assert sorted((store.root / "initrds").iterdir()) == kept


def _fail(_: Path) -> None:
    raise OSError("no room")


def test_blocks_are_hashed_as_the_geometry_cuts_them(tmp_path: Path) -> None:
    geometry = Geometry(symbol_size=64, block_symbols=2)
    content = bytes(range(256)) + b"tail"
    (tmp_path / "image").write_bytes(content)
    blocks = [hashlib.sha256(content[start : start + 128]).hexdigest() for start in range(0, 260, 128)]
    whole = hashlib.sha256(content).hexdigest()
    assert hashes(tmp_path / "image", geometry, Cancel()) == (whole, blocks)
    assert len(blocks) == 3


def test_the_nodes_code_is_found_without_what_needs_pydantic() -> None:
    code = collect()
    assert {"shoal_execd/stage1.py", "shoal_mcast/__init__.py", "nats/aio/client.py", "msgpack/fallback.py"} <= set(
        code.library
    )
    assert {"shoal_bus/connection.py", "shoal_bus/codec.py", "shoal_model/subjects.py", "shoal_model/names.py"} <= set(
        code.library
    )
    unwanted = {"shoal_model/records.py", "shoal_model/messages/__init__.py", "shoal_bus/nats.py", "shoal_bus/api.py"}
    assert not unwanted & set(code.library)
    assert not [name for name in code.library if name.endswith((".so", ".pyc", "py.typed"))]
    assert set(code.data) == {"init", "init.shoal", "shoal-execd", "shoal-execd.service"}


def test_the_digest_of_the_nodes_code_changes_with_it(tmp_path: Path) -> None:
    code = collect()
    changed = tmp_path / "stage1.py"
    changed.write_text("print('another')\n")
    other = type(code)(code.library | {"shoal_execd/stage1.py": changed}, code.data)
    assert other.digest != code.digest
    assert collect().digest == code.digest
