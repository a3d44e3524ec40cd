"""The real shoal-tftp: scripts for whoever asks, ranges over HTTP, and what the timeline hears of it."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.behind import Behind
from lab.certificates import Authority
from lab.nats_server import NatsServer
from lab.net import Lan
from lab.space import Running
from lab.tftp_head import HEAD, OTHER_HEAD, Files, cluster, put, register, tftp_service
from shoal_bus.nats import NatsBus
from shoal_identity import tokens
from shoal_identity.keys import Key
from shoal_model.messages import BootEvent, Status
from shoal_model.records import ImageManifest, ImageRelease, Kind
from shoal_model.subjects import BOOT_EVENTS, Stage
from shoal_service.store import BlobStore

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

AT_ONCE = 5.0
"""Seconds: a change takes milliseconds, starting curl on a machine full of tests does not."""
MACHINES = {"n001": "10.77.0.11", "n002": "10.77.0.12", "n003": "10.77.0.13", "stranger": "10.77.0.99"}


class Timeline:
    """The boot events of the cluster as they come."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[BootEvent] = asyncio.Queue()

    async def next(self) -> BootEvent:
        async with asyncio.timeout(10):
            return await self.events.get()

    async def silent(self) -> bool:
        """Whether nothing comes for a while."""
        await asyncio.sleep(0.5)
        return self.events.empty()


@pytest.fixture
def machines(lan: Lan) -> Iterator[dict[str, Behind]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Behind(lan, name, f"52:54:00:77:00:{address[-2:]}", f"{address}/24"))
            for name, address in MACHINES.items()
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def manifest(files: Files) -> ImageManifest:
    return files.lay()


@pytest.fixture
async def timeline(bus: NatsBus) -> AsyncIterator[Timeline]:
    timeline = Timeline()

    async def follow() -> None:
        async with bus.events(BOOT_EVENTS, BootEvent, since=0) as events:
            async for _, _, event in events:
                timeline.events.put_nowait(event)

    following = asyncio.create_task(follow())
    yield timeline
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@pytest.fixture
async def service(
    lan: Lan, nats_server: NatsServer, bus: NatsBus, files: Files, manifest: ImageManifest
) -> AsyncIterator[Running]:
    await register(bus, manifest)
    async with tftp_service(lan.space, nats_server.url, files) as running:
        yield running


async def curl(machine: Behind, url: str, *words: str) -> str:
    """What curl says on stdout, and on stderr if it fails."""
    process = await asyncio.create_subprocess_exec(
        *machine.command(["curl", "-sS", "--max-time", "20", *words, url]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return (out if process.returncode == 0 else err).decode(errors="replace")


async def size_of(machine: Behind, url: str, *words: str) -> int:
    """How many bytes curl gets."""
    return int(await curl(machine, url, "--fail", "-o", "/dev/null", "-w", "%{size_download}", *words))


def tftp(name: str) -> str:
    return f"tftp://{HEAD}/{name}"


def http(name: str, head: str = HEAD) -> str:
    return f"http://{head}:8080/{name}"


def boot_id(script: str) -> str:
    found = re.search(r"shoal\.boot=([0-9a-f]{16}) ", script)
    assert found, script
    return found[1]


async def test_default_is_for_the_one_who_asks(
    service: Running, machines: dict[str, Behind], manifest: ImageManifest, timeline: Timeline
) -> None:
    script = await curl(machines["n001"], tftp("pxelinux.cfg/default"))
    assert f"  LINUX shoal/images/{manifest.squashfs.sha256}/kernel\n" in script
    assert " shoal.node=n001 " in script
    assert " ip=10.77.0.11:::255.255.255.0:n001:: BOOTIF=01-52-54-00-77-00-11 console=ttyS0\n" in script
    assert abs(int(re.search(r"shoal\.time=(\d+)", script)[1]) - datetime.now(UTC).timestamp()) < 30  # type: ignore[index]
    event = await timeline.next()
    assert (event.node, event.stage, event.status, event.boot) == (
        "n001",
        Stage.LOADER_CONFIG,
        Status.OK,
        boot_id(script),
    )
    assert event.details == {"bytes": len(script), "door": "tftp", "file": "pxelinux.cfg/default"}
    other = await curl(machines["n002"], tftp("pxelinux.cfg/default"))
    assert " shoal.node=n002 " in other
    assert boot_id(other) != boot_id(script)


async def test_a_boot_from_script_to_initrd_is_one_boot(
    service: Running, machines: dict[str, Behind], manifest: ImageManifest, timeline: Timeline, files: Files
) -> None:
    node = machines["n001"]
    script = await curl(node, http("boot.ipxe"))
    assert boot_id(script) == boot_id(await curl(node, tftp("pxelinux.cfg/default")))
    assert "200 OK" in await curl(node, http("boot.ipxe"), "--head")
    urls = re.findall(r"(http://\S+/(?:kernel|initrd)) ", script)
    assert [await curl(node, url, "-o", "/dev/null", "-w", "%{size_download}") for url in urls] == [
        "3000001",
        "3000002",
    ]
    assert await size_of(node, tftp(f"shoal/images/{manifest.squashfs.sha256}/initrd")) == 3_000_002
    heard = [await timeline.next() for _ in range(3)]
    assert [(event.stage, event.boot, event.details["door"]) for event in heard] == [
        (Stage.LOADER_CONFIG, boot_id(script), "http"),
        (Stage.LOADER_KERNEL, boot_id(script), "http"),
        (Stage.LOADER_INITRD, boot_id(script), "http"),
    ]
    assert heard[1].details["bytes"] == 3_000_001
    assert await timeline.silent()
    assert boot_id(await curl(node, http("boot.ipxe"))) != boot_id(script)


async def test_a_boot_can_be_proven_and_its_token_is_told_to_nobody_else(
    lan: Lan,
    nats_server: NatsServer,
    bus: NatsBus,
    files: Files,
    manifest: ImageManifest,
    machines: dict[str, Behind],
    timeline: Timeline,
) -> None:
    await register(bus, manifest)
    key, trust = Key.new(), Authority().trust.dump()
    key.write(files.folder / "boot.seed")
    (files.folder / "ca.crt").write_bytes(trust)
    secrets = {"SHOAL_BOOT_KEY": str(files.folder / "boot.seed"), "SHOAL_CA": str(files.folder / "ca.crt")}
    async with tftp_service(lan.space, nats_server.url, files, **secrets):
        tokens_seen = []
        for url in (tftp("pxelinux.cfg/default"), http("boot.ipxe"), tftp("pxelinux.cfg/0A4D000C")):
            name = "n002" if url.endswith("0C") else "n001"
            script = await curl(machines[name], url)
            words = dict(re.findall(r"shoal\.(\w+)=(\S+)", script))
            token = tokens.read(words["token"], [key.public])
            assert (token.node, token.address, token.boot) == (name, MACHINES[name], words["boot"])
            assert words["nats"] == f"tls://{HEAD}:4222"
            assert words["ca"] == hashlib.sha256(trust).hexdigest()
            tokens_seen.append(words["token"])
        for url in (tftp("shoal/ca.crt"), http("shoal/ca.crt")):
            assert await curl(machines["n001"], url) == trust.decode()
        events = [await timeline.next() for _ in range(2)]
        told = (files.folder / "tftp.log").read_text() + "".join(event.model_dump_json() for event in events)
        assert "pxelinux.cfg/0A4D000C" in told
        assert not [token for token in tokens_seen if token in told]
        assert key.seed not in told


async def test_ipxe_is_sent_back_to_the_address_that_it_asked(service: Running, machines: dict[str, Behind]) -> None:
    script = await curl(machines["n001"], http("boot.ipxe", OTHER_HEAD))
    assert set(re.findall(r"http://([0-9.]+):", script)) == {OTHER_HEAD}
    assert f"shoal.nats=nats://{HEAD}:4222" in script


async def test_a_hostid_is_for_its_owner_alone(service: Running, machines: dict[str, Behind], files: Files) -> None:
    own, foreign = "pxelinux.cfg/0A4D000C", "pxelinux.cfg/0A4D000B"
    assert " shoal.node=n002 " in await curl(machines["n002"], tftp(own))
    assert "console=ttyS0" not in await curl(machines["n002"], http(own))
    # n001 has no configuration of its own: it goes on to `default`, as PXELINUX does.
    assert "curl: (68)" in await curl(machines["n001"], tftp(foreign))
    for name in ("n001", "stranger"):
        assert "curl: (68)" in await curl(machines[name], tftp(own))
        assert "is for the node with that address alone" in await curl(machines[name], http(own))
    log = (files.folder / "tftp.log").read_text()
    assert 'client=10.77.0.99 file=pxelinux.cfg/0A4D000C reason="pxelinux.cfg/0A4D000C is for the node' in log


async def test_a_node_without_a_release_is_told_and_so_is_the_operator(
    service: Running, machines: dict[str, Behind], timeline: Timeline, bus: NatsBus, manifest: ImageManifest
) -> None:
    node = machines["n003"]
    for _ in range(3):
        assert "SAY Shoal: n003 cannot boot: image new has no release yet" in await curl(
            node, tftp("pxelinux.cfg/0A4D000D")
        )
    assert "echo Shoal: n003 cannot boot: image new has no release yet" in await curl(node, http("boot.ipxe"))
    event = await timeline.next()
    assert (event.node, event.stage, event.status) == ("n003", Stage.LOADER_CONFIG, Status.FAILED)
    assert event.reason is not None
    assert event.reason.startswith("image new has no release yet")
    assert await timeline.silent()
    await put(bus, {(Kind.IMAGE_RELEASE, "new"): ImageRelease(manifest=manifest, built=datetime.now(UTC))})
    async with asyncio.timeout(AT_ONCE):
        while "cannot boot" in await curl(node, http("boot.ipxe")):
            pass
    event = await timeline.next()
    assert (event.node, event.stage, event.status) == ("n003", Stage.LOADER_CONFIG, Status.OK)


async def test_a_change_is_live_at_once(service: Running, machines: dict[str, Behind], bus: NatsBus) -> None:
    changed = cluster().nodes["n001"].model_copy(update={"name": "renamed"})
    await put(bus, {(Kind.NODE, "n001"): changed})
    async with asyncio.timeout(AT_ONCE):
        while ":renamed:: " not in await curl(machines["n001"], http("boot.ipxe")):
            pass


async def test_a_stranger_is_told_that_nobody_knows_it(
    service: Running, machines: dict[str, Behind], timeline: Timeline
) -> None:
    assert "no node has the address 10.77.0.99" in await curl(machines["stranger"], tftp("pxelinux.cfg/default"))
    assert await timeline.silent()


async def test_a_blob_that_is_missing_is_told_before_the_node_tries(
    service: Running, machines: dict[str, Behind], timeline: Timeline, files: Files, manifest: ImageManifest
) -> None:
    (files.state / "store" / "blobs" / manifest.initrd.sha256).unlink()
    script = await curl(machines["n001"], tftp("pxelinux.cfg/default"))
    assert f"its file {manifest.initrd.sha256[:12]} is not in the store" in script.replace("\nSAY Shoal:", ""), script
    assert (await timeline.next()).status is Status.FAILED
    assert "404" in await curl(machines["n001"], http("shoal/images/compute/initrd"), "--fail")
    event = await timeline.next()
    assert (event.stage, event.status) == (Stage.LOADER_INITRD, Status.FAILED)


async def test_ranges_heads_and_blobs(
    service: Running, machines: dict[str, Behind], files: Files, manifest: ImageManifest, timeline: Timeline
) -> None:
    node, url = machines["stranger"], http("files/100000")
    head = await curl(node, url, "--head")
    assert "Content-Length: 100000" in head
    assert "Accept-Ranges: bytes" in head
    got = await curl(node, url, "-r", "99990-", "-o", str(files.folder / "part"), "-w", "%{http_code} %{size_download}")
    assert got == "206 10"
    assert (files.folder / "part").read_bytes() == files.own["files/100000"][99990:]
    blob = f"blobs/{manifest.squashfs.sha256}"
    assert await size_of(node, http(blob)) == 3_000_003
    assert await size_of(node, http(blob), "-r", "1000-1999") == 1000
    (files.folder / "archive").write_bytes(b"host keys")
    archive, _ = BlobStore(files.state / "store").add(files.folder / "archive")
    for bad in (archive, manifest.kernel.sha256, manifest.initrd.sha256, "0" * 64, "123", "compute"):
        assert "404" in await curl(node, http(f"blobs/{bad}"), "--fail")
    for bad in ("files", "", "files/none", "shoal/ca.crt"):
        assert "404" in await curl(node, http(bad), "--fail", "--path-as-is") or bad == ""
    for bad in ("..%2f..%2fetc%2fpasswd", "../../etc/passwd", "a%00b", "%5c..%5c..%5cx", ""):
        assert "403" in await curl(node, http(bad), "--fail", "--path-as-is"), bad
    assert await timeline.silent()


async def test_a_missing_loader_is_named_everywhere(
    lan: Lan,
    nats_server: NatsServer,
    bus: NatsBus,
    files: Files,
    manifest: ImageManifest,
    machines: dict[str, Behind],
    timeline: Timeline,
) -> None:
    await register(bus, manifest)
    async with tftp_service(lan.space, nats_server.url, files, SHOAL_LOADERS=str(files.folder / "nothing")):
        assert "install Debian's package pxelinux" in await curl(machines["n001"], http("pxelinux.0"))
        event = await timeline.next()
        assert (event.stage, event.status) == (Stage.LOADER_CONFIG, Status.FAILED)
        assert "install Debian's package pxelinux" in (event.reason or "")
        assert "install Debian's package pxelinux" in (files.folder / "tftp.log").read_text()


async def test_boots_go_on_while_the_bus_is_away(
    service: Running, nats_server: NatsServer, machines: dict[str, Behind], timeline: Timeline
) -> None:
    nats_server.kill()
    script = await curl(machines["n001"], tftp("pxelinux.cfg/default"))
    assert " shoal.node=n001 " in script
    assert (
        await curl(machines["n001"], http("shoal/images/compute/kernel"), "-o", "/dev/null", "-w", "%{size_download}")
        == "3000001"
    )
    nats_server.start()
    assert [(await timeline.next()).stage for _ in range(2)] == [Stage.LOADER_CONFIG, Stage.LOADER_KERNEL]
