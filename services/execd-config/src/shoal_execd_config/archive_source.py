"""Archives of customizations for the preview: from this head's store, else over HTTP from one that has them."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import aiohttp

from shoal_bus.errors import Unavailable
from shoal_identity import trust
from shoal_model.records import StoredFile
from shoal_service.store import BlobStore

_LARGEST = 256 << 20
_CHUNK = 1 << 18
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True)
class Elsewhere:
    """Doors that may have what our store has not, and the trust file for those with TLS; None: this machine's CAs."""

    sources: Sequence[str]
    ca: Path | None


@asynccontextmanager
async def archive(store: BlobStore, stored: StoredFile, elsewhere: Elsewhere) -> AsyncIterator[Path]:
    """A path under which the archive can be read inside this context. Raises Unavailable, with each source's reason."""
    if store.has(stored.sha256):
        yield store.path(stored.sha256)
        return
    if stored.size > _LARGEST:
        raise Unavailable(
            f"archive {stored.sha256[:12]} is larger than the {_LARGEST >> 20} MiB that a preview fetches"
        )
    with NamedTemporaryFile(prefix="shoal-preview-") as file:
        path = Path(file.name)
        reasons = []
        connector = aiohttp.TCPConnector(ssl=await asyncio.to_thread(_tls, elsewhere.ca))
        async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as session:
            for base in elsewhere.sources:
                try:
                    await _fetch(session, f"{base}/blobs/{stored.sha256}", stored, path)
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    reasons.append(f"{base}: {error or type(error).__name__}")
                else:
                    yield path
                    return
    raise Unavailable(f"no source has archive {stored.sha256[:12]}: {'; '.join(reasons)}")


def _tls(ca: Path | None) -> ssl.SSLContext | bool:
    """Raises Unavailable."""
    try:
        return True if ca is None else trust.parse(ca.read_bytes()).client_context()
    except (OSError, trust.BadTrust) as error:
        raise Unavailable(f"cannot use the trust file {ca} (SHOAL_CA): {error}") from error


async def _fetch(session: aiohttp.ClientSession, url: str, stored: StoredFile, path: Path) -> None:
    """Copy a URL to a file. ValueError if it is not what was asked for."""
    hasher, size = hashlib.sha256(), 0
    async with session.get(url) as response:
        response.raise_for_status()
        with path.open("wb") as file:
            async for chunk in response.content.iter_chunked(_CHUNK):
                size += len(chunk)
                if size > stored.size:
                    raise ValueError(f"more than the {stored.size} bytes expected")
                hasher.update(chunk)
                await asyncio.to_thread(file.write, chunk)
    if hasher.hexdigest() != stored.sha256:
        raise ValueError(f"the content has another digest: {hasher.hexdigest()[:12]}")
