"""A head's boot file server in the lab: records in the bucket, blobs in the store, `shoal-tftp` in front of them."""

import asyncio
import hashlib
import random
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from lab.space import LabError, Running, Space
from shoal_bus import codec
from shoal_bus.api import Bus, Write
from shoal_model.records import Cluster, ImageManifest, ImageRelease, Kind, Record, compact, record_key
from shoal_service.store import BlobStore

HEAD, OTHER_HEAD = "10.77.0.1", "10.77.0.2"
METRICS = "127.0.0.1:9104"
SIZES = (0, 1, 511, 512, 513, 1024, 1468, 1469, 3 * 1408, 100_000)
BIG = 65535 * 512 + 1000
"""More than 65,535 blocks of 512 bytes: block numbers roll over."""


def content(size: int) -> bytes:
    """Bytes that differ from block to block."""
    return random.Random(size).randbytes(size)


@dataclass
class Files:
    """What lies on the head's disk: the operator's own files, and an image of three blobs."""

    folder: Path
    own: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def tftpboot(self) -> Path:
        return self.folder / "tftpboot"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def lay(self) -> ImageManifest:
        """Write everything; the manifest of the image."""
        self.own = {f"files/{size}": content(size) for size in (*SIZES, BIG)}
        for name, data in self.own.items():
            path = self.tftpboot / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        store, stored = BlobStore(self.state / "store"), {}
        for number, part in enumerate(("kernel", "initrd", "squashfs")):
            self.blobs[part] = content(3_000_001 + number)
            source = self.folder / part
            source.write_bytes(self.blobs[part])
            digest, size = store.add(source)
            stored[part] = {"sha256": digest, "size": size}
        some = hashlib.sha256(b"some").hexdigest()
        return ImageManifest.model_validate(
            {
                "image": "compute", "flavor": "bookworm", "version": "1.0", "identity": some, "content": some,
                "modules": [], "kernel_version": "6.1.0-25-amd64", "blocks": [some], **stored,
            }
        )  # fmt: skip


def cluster() -> Cluster:
    """n001 boots as its template says, n002 has a boot configuration of its own, n003 an image that was never built."""
    return Cluster.model_validate(
        {
            "networks": {"boot": {"cidr": "10.77.0.0/24", "head": HEAD, "boot": True}},
            "images": {name: {"flavor": "bookworm", "version": "1.0"} for name in ("compute", "new")},
            "templates": {"compute": {"image": "compute", "boot": {"parameters": "console=ttyS0"}}},
            "nodes": {
                "n001": {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", "template": "compute"},
                "n002": {
                    "mac": "52:54:00:77:00:12", "address": "10.77.0.12", "template": "compute",
                    "boot": {"parameters": "debug"},
                },
                "n003": {"mac": "52:54:00:77:00:13", "address": "10.77.0.13", "image": "new"},
            },
        }
    )  # fmt: skip


async def put(bus: Bus, records: dict[tuple[Kind, str], Record]) -> None:
    """Put records into the bucket as the registry does: one batch, `head` last."""
    store = await bus.store("records")
    writes = [Write(record_key(kind, name), codec.pack(compact(record))) for (kind, name), record in records.items()]
    head = {"revision": 1, "author": "test", "at": datetime.now(UTC).isoformat(), "change": "c1"}
    await store.commit([*writes, Write("head", codec.pack(head))])


async def register(bus: Bus, manifest: ImageManifest) -> None:
    """Put the cluster and the release of its image."""
    records = cluster()
    sections = (
        (Kind.NETWORK, records.networks), (Kind.IMAGE, records.images), (Kind.TEMPLATE, records.templates),
        (Kind.NODE, records.nodes),
    )  # fmt: skip
    batch: dict[tuple[Kind, str], Record] = {(k, name): r for k, section in sections for name, r in section.items()}
    batch[Kind.IMAGE_RELEASE, "compute"] = ImageRelease(manifest=manifest, built=datetime.now(UTC))
    await put(bus, batch)


@asynccontextmanager
async def tftp_service(space: Space, nats: str, files: Files, **settings: str) -> AsyncIterator[Running]:
    """`shoal-tftp`, ready. Its log is `<folder>/tftp.log`."""
    environment = {
        "SHOAL_NATS": nats, "SHOAL_STATE": str(files.state), "SHOAL_TFTPBOOT": str(files.tftpboot),
        "SHOAL_LOG_LEVEL": "debug", **settings,
    }  # fmt: skip
    log = files.folder / "tftp.log"
    with log.open("ab") as stderr:
        running = Running(space, [str(Path(sys.executable).parent / "shoal-tftp")], env=environment, stderr=stderr)
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            while not await _ready(http):
                if not running.running:
                    raise LabError(log.read_text())
                await asyncio.sleep(0.05)
        yield running
    finally:
        await asyncio.to_thread(running.stop)


async def _ready(http: aiohttp.ClientSession) -> bool:
    try:
        async with http.get(f"http://{METRICS}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def until_counted(pattern: str, value: float, seconds: float = 5) -> None:
    """Return when the metrics that match sum up to `value`. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while await counted(pattern) != value:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.05)


async def counted(pattern: str) -> float:
    """The sum of the service's metrics that match."""
    async with aiohttp.ClientSession() as http, http.get(f"http://{METRICS}/metrics") as answer:
        return sum(float(value) for value in re.findall(rf"^{pattern} ([0-9.e+]+)$", await answer.text(), re.MULTILINE))
