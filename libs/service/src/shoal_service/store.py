"""The image store of a head: content under its digest, written atomically, served over HTTP with ranges.

<root>/blobs/<sha256>                  squashfs, kernel, initrd, archives of Root FS customizations
<root>/manifests/<squashfs sha256>.json   one `ImageManifest` for each image build
"""

import hashlib
import os
import tempfile
from pathlib import Path

from aiohttp import web
from pydantic import ValidationError

from shoal_model import names
from shoal_model.records import ImageManifest

_CHUNK = 1 << 20


class BadManifest(Exception):
    """A manifest in the store is not to be used; the text names the file and says why."""


class BlobStore:
    """Content addressed by its SHA-256, in one directory. Methods block: call them in a thread where it matters."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the content of this digest is, or would be. ValueError if it is no digest."""
        return self.root / "blobs" / names.digest(digest)

    def has(self, digest: str) -> bool:
        """Whether the content is there. It is not read: who uses it verifies it."""
        return self.path(digest).is_file()

    def add(self, source: Path) -> tuple[str, int]:
        """Copy a file into the store, atomically and durably; its digest and size in bytes."""
        folder = self.root / "blobs"
        folder.mkdir(parents=True, exist_ok=True)
        hasher, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as target:
            try:
                with source.open("rb") as content:
                    while chunk := content.read(_CHUNK):
                        hasher.update(chunk)
                        target.write(chunk)
                        size += len(chunk)
                target.flush()
                os.fchmod(target.fileno(), 0o640)  # customizations may hold secrets
                os.fsync(target.fileno())
                os.replace(target.name, folder / hasher.hexdigest())
            except BaseException:
                os.unlink(target.name)
                raise
        return hasher.hexdigest(), size

    def manifest(self, digest: str) -> ImageManifest:
        """The build whose squashfs has this digest. ValueError if it is no digest.

        Raises FileNotFoundError if there is no such build here, BadManifest if its manifest says something else.
        """
        path = self.root / "manifests" / f"{names.digest(digest)}.json"
        try:
            manifest = ImageManifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BadManifest(f"the manifest {path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole of it"
            raise BadManifest(f"the manifest {path} cannot be read: {where}: {first['msg']}") from error
        if manifest.squashfs.sha256 != digest:
            raise BadManifest(f"the manifest {path} is of another image: {manifest.squashfs.sha256}")
        return manifest

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET|HEAD /blobs/{digest}`, ranges included; 404 for what is not there."""
        try:
            path = self.path(request.match_info["digest"])
        except ValueError as error:
            raise web.HTTPNotFound(text=f"{error}\n") from None
        if not path.is_file():
            raise web.HTTPNotFound(text=f"this head's store holds no {path.name}\n")
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})
