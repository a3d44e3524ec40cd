"""The image store: what goes in comes out under its digest, and nothing else does."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from shoal_service.store import BadManifest, BlobStore

CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    return source


def test_what_is_added_is_there(store: BlobStore, source: Path) -> None:
    assert not store.has(DIGEST)
    assert store.add(source) == (DIGEST, len(CONTENT))
    assert store.has(DIGEST)
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o640


def test_adding_twice_changes_nothing(store: BlobStore, source: Path) -> None:
    assert store.add(source) == store.add(source)
    assert [file.name for file in (store.root / "blobs").iterdir()] == [DIGEST]


def test_what_is_damaged_in_the_store_is_replaced(store: BlobStore, source: Path) -> None:
    digest, _ = store.add(source)
    store.path(digest).write_bytes(b"\x01" + CONTENT[1:])
    assert store.add(source) == (digest, len(CONTENT))
    assert store.path(digest).read_bytes() == CONTENT


def test_larger_than_a_chunk(store: BlobStore, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(CONTENT * 20)
    digest, size = store.add(large)
    assert (digest, size) == (hashlib.sha256(CONTENT * 20).hexdigest(), 20 * len(CONTENT))


def test_a_failed_addition_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        store.add(tmp_path)
    with pytest.raises(FileNotFoundError):
        store.add(tmp_path / "missing")
    assert list((store.root / "blobs").iterdir()) == []


@pytest.mark.parametrize("digest", ["", "x", "../" + DIGEST, DIGEST.upper(), DIGEST[:-1], DIGEST + "0", DIGEST + "\n"])
def test_what_is_no_digest_has_no_path(store: BlobStore, digest: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 digest"):
        store.path(digest)


def manifest(squashfs: str) -> dict[str, object]:
    file = {"sha256": squashfs, "size": 1}
    return {
        "image": "compute", "flavor": "bookworm", "version": "1.0", "identity": DIGEST, "content": DIGEST,
        "modules": [], "kernel_version": "6.1", "squashfs": file, "kernel": file, "initrd": file, "blocks": [DIGEST],
    }  # fmt: skip


def test_a_build_is_known_by_the_digest_of_its_squashfs(store: BlobStore) -> None:
    folder = store.root / "manifests"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        store.manifest(DIGEST)
    with pytest.raises(ValueError, match="not a SHA-256 digest"):
        store.manifest("../secret")
    path = folder / f"{DIGEST}.json"
    path.write_text(json.dumps(manifest(DIGEST)))
    assert store.manifest(DIGEST).squashfs.sha256 == DIGEST
    path.write_text(json.dumps(manifest("0" * 64)))
    with pytest.raises(BadManifest, match=f"{DIGEST}.json is of another image: 000"):
        store.manifest(DIGEST)
    path.write_text("{}")
    with pytest.raises(BadManifest, match=r"cannot be read: image: Field required$"):
        store.manifest(DIGEST)
    path.unlink()
    path.mkdir()
    with pytest.raises(BadManifest, match=r"cannot be read: Is a directory$"):
        store.manifest(DIGEST)


@pytest.fixture
async def url(store: BlobStore, source: Path) -> AsyncIterator[str]:
    store.add(source)
    (store.root / "secret").write_bytes(b"secret")
    application = web.Application()
    application.router.add_get("/blobs/{digest}", store.serve)
    server = TestServer(application)
    await server.start_server()
    yield f"http://127.0.0.1:{server.port}/"
    await server.close()


async def fetch(method: str, url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
    exact = URL(url, encoded=True)
    async with aiohttp.ClientSession() as session, session.request(method, exact, headers=headers or {}) as answer:
        return answer.status, await answer.read(), dict(answer.headers)


async def test_a_blob_is_served_whole(url: str) -> None:
    status, body, headers = await fetch("GET", f"{url}blobs/{DIGEST}")
    assert (status, body) == (200, CONTENT)
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Length"] == str(len(CONTENT))
    assert headers["Accept-Ranges"] == "bytes"


async def test_head_tells_the_size(url: str) -> None:
    status, body, headers = await fetch("HEAD", f"{url}blobs/{DIGEST}")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(CONTENT)))


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        ("bytes=0-9", CONTENT[:10]),
        ("bytes=1000-1999", CONTENT[1000:2000]),
        ("bytes=255990-", CONTENT[-10:]),
        ("bytes=-5", CONTENT[-5:]),
    ],
)
async def test_a_range_is_served(url: str, range_: str, expected: bytes) -> None:
    status, body, headers = await fetch("GET", f"{url}blobs/{DIGEST}", {"Range": range_})
    assert (status, body) == (206, expected)
    assert headers["Content-Range"].endswith(f"/{len(CONTENT)}")


@pytest.mark.parametrize("range_", ["bytes=256000-", "bytes=999999999-", "bytes=x-y"])
async def test_a_range_that_is_none_is_refused(url: str, range_: str) -> None:
    status, body, _ = await fetch("GET", f"{url}blobs/{DIGEST}", {"Range": range_})
    assert (status, len(body) < 200) == (416, True)


@pytest.mark.parametrize(
    "name", ["0" * 64, "x", "..%2Fsecret", "%2e%2e%2fsecret", "%00", DIGEST.upper(), ".new-x", "%ff"]
)
async def test_what_is_not_there_is_not_found(url: str, name: str) -> None:
    status, body, _ = await fetch("GET", f"{url}blobs/{name}")
    assert status == 404
    assert body != b"secret"
