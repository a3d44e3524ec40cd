"""Who asks for what, and what they get: the decisions behind both doors, with a clock that stands still."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from shoal_dhcp import loaders
from shoal_model.messages import BootEvent, Status
from shoal_model.records import Cluster, ImageManifest, ImageRelease
from shoal_model.resolve import Snapshot
from shoal_model.subjects import Stage
from shoal_service.store import BlobStore
from shoal_tftp import paths
from shoal_tftp.files import NotServed
from shoal_tftp.handlers import Asker, BootFiles, Door, Places

AT = datetime(2026, 11, 20, 6, 0, 0, tzinfo=UTC)
N001 = Asker("10.77.0.11", "10.77.0.1", Door.TFTP)
N002 = Asker("10.77.0.12", "10.77.0.2", Door.HTTP)
STRANGER = Asker("10.77.0.99", "10.77.0.1", Door.HTTP)


class Head:
    """A boot file server without doors: records in memory, files in a directory, events in a list."""

    def __init__(self, folder: Path) -> None:
        self.store = BlobStore(folder / "store")
        self.own = folder / "tftpboot"
        (self.own / "pxelinux.cfg").mkdir(parents=True)
        self.seconds = 0.0
        self.events: list[BootEvent] = []
        self.releases: dict[str, ImageRelease] = {}
        node = {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", "image": "compute"}
        other = {"mac": "52:54:00:77:00:12", "address": "10.77.0.12"}
        self.cluster = Cluster.model_validate(
            {
                "networks": {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}},
                "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
                "nodes": {"n001": node, "n002": other},
                "global": {"image": "compute"},
            }
        )
        self.release(b"first")
        places = Places(self.store, self.own, (folder / "loaders",))
        self.files = BootFiles(self, places, self.events.append, lambda: AT, lambda: self.seconds)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.cluster, self.releases, {})

    def node_by_address(self, ip: str) -> str | None:
        return next((name for name, node in self.cluster.nodes.items() if node.address == ip), None)

    def release(self, content: bytes) -> ImageManifest:
        """Publish a build whose files begin with `content`."""
        stored = {}
        for part in ("kernel", "initrd", "squashfs"):
            source = self.own.parent / part
            source.write_bytes(content + part.encode())
            digest, size = self.store.add(source)
            stored[part] = {"sha256": digest, "size": size}
        fixed = {
            "identity": "1" * 64,
            "content": "2" * 64,
            "modules": [],
            "kernel_version": "6.1",
            "blocks": ["d" * 64],
        }
        manifest = ImageManifest.model_validate(
            {"image": "compute", "flavor": "bookworm", "version": "1.0", **fixed, **stored}
        )
        folder = self.store.root / "manifests"
        folder.mkdir(exist_ok=True)
        (folder / f"{manifest.squashfs.sha256}.json").write_text(manifest.model_dump_json())
        self.releases["compute"] = ImageRelease(manifest=manifest, built=AT)
        return manifest

    async def text(self, name: str, asker: Asker) -> str:
        """What a client reads under a name, to its end."""
        offer = await self.files.offer(name, asker)
        body = offer.body if isinstance(offer.body, bytes) else offer.body.read_bytes()
        self.files.sent(offer, asker, len(body))
        return body.decode()


@pytest.fixture
def head(tmp_path: Path) -> Head:
    return Head(tmp_path)


async def test_a_script_is_an_event_when_it_has_arrived(head: Head) -> None:
    offer = await head.files.offer("boot.ipxe", N002)
    assert head.events == []
    head.files.sent(offer, N002, 700)
    (event,) = head.events
    assert event.boot == offer.boot
    assert event == BootEvent(
        node="n002",
        stage=Stage.LOADER_CONFIG,
        at=AT,
        boot=offer.boot,
        details={"bytes": 700, "door": "http", "file": "boot.ipxe"},
    )


async def test_a_script_points_to_the_head_that_was_asked(head: Head) -> None:
    assert "kernel http://10.77.0.2:8080/shoal" in (await head.text("boot.ipxe", N002)).replace("--name kernel ", "")


async def test_a_node_between_two_releases_gets_the_kernel_of_its_script(head: Head) -> None:
    old = head.releases["compute"].manifest.squashfs.sha256
    head.release(b"second")
    assert await head.text(f"shoal/images/{old}/kernel", N001) == "firstkernel"
    assert await head.text("shoal/images/compute/kernel", N001) == "secondkernel"


async def test_a_manifest_that_is_damaged_is_told(head: Head) -> None:
    (head.store.root / "manifests" / f"{'e' * 64}.json").write_text("{}")
    with pytest.raises(NotServed, match="is not to be read") as raised:
        await head.files.offer(f"shoal/images/{'e' * 64}/kernel", N001)
    assert raised.value.worth_a_log
    with pytest.raises(NotServed, match="no image"):
        await head.files.offer(f"shoal/images/{'f' * 64}/kernel", N001)


async def test_a_transfer_that_broke_off_is_an_event_with_its_reason(head: Head) -> None:
    await head.text("pxelinux.cfg/default", N001)
    offer = await head.files.offer("shoal/images/compute/initrd", N001)
    head.files.failed(offer, N001, "the client fell silent after block 7")
    event = head.events[-1]
    assert (event.stage, event.status, event.boot) == (Stage.LOADER_INITRD, Status.FAILED, offer.boot)
    assert event.reason == "the client fell silent after block 7"


@pytest.mark.parametrize(
    ("loader", "remedy"),
    [
        ("snponly-arm64.efi", "no Debian package has snponly-arm64.efi: put it into {own} (SHOAL_TFTPBOOT)"),
        ("snponly.efi", "install Debian's package ipxe, or set SHOAL_LOADERS"),
        ("ldlinux.c32", "install Debian's package syslinux-common, or set SHOAL_LOADERS"),
    ],
)
async def test_a_missing_loader_is_an_event_that_says_what_to_do(head: Head, loader: str, remedy: str) -> None:
    with pytest.raises(NotServed) as raised:
        await head.files.offer(loader, N001)
    assert raised.value.worth_a_log
    (event,) = head.events
    assert (event.node, event.stage, event.status) == ("n001", Stage.LOADER_CONFIG, Status.FAILED)
    assert event.reason == str(raised.value)
    assert event.reason.endswith(remedy.format(own=head.own))
    (head.own / loader).write_text("brought by the operator")
    assert await head.text(loader, N001) == "brought by the operator"


def test_every_loader_that_dhcp_names_is_known_to_the_file_server() -> None:
    for name in (*loaders.UEFI_LOADERS.values(), loaders.PXELINUX, loaders.UNDIONLY):
        assert isinstance(paths.locate(name), paths.LoaderFile)
    assert isinstance(paths.locate(loaders.IPXE_SCRIPT), paths.IpxeScript)


async def test_who_is_no_node_makes_no_events(head: Head) -> None:
    assert "no node has the address" in await head.text("pxelinux.cfg/default", STRANGER)
    await head.text("shoal/images/compute/kernel", STRANGER)
    assert head.events == []


async def test_the_squashfs_and_own_files_are_followed_by_nobody(head: Head) -> None:
    (head.own / "memtest").write_text("test")
    await head.text("memtest", N001)
    await head.text("shoal/images/compute/squashfs", N001)
    assert head.events == []


async def test_a_hostid_belongs_to_its_owner(head: Head) -> None:
    assert "shoal.node=n001" in await head.text("pxelinux.cfg/0A4D000B", N001)
    with pytest.raises(NotServed, match="for the node with that address alone") as raised:
        await head.files.offer("pxelinux.cfg/0A4D000B", N002)
    assert raised.value.worth_a_log


async def test_without_a_configuration_of_its_own_a_node_has_no_hostid_unless_the_operator_wrote_one(
    head: Head,
) -> None:
    with pytest.raises(NotServed) as raised:
        await head.files.offer("pxelinux.cfg/0A4D000C", N002)
    assert not raised.value.worth_a_log
    (head.own / "pxelinux.cfg" / "0A4D000C").write_text("LOCALBOOT 0")
    assert await head.text("pxelinux.cfg/0A4D000C", N002) == "LOCALBOOT 0"


async def test_what_ipxe_cannot_pass_on_is_refused_there_and_fine_with_pxelinux(head: Head) -> None:
    node = head.cluster.nodes["n001"]
    boot = node.boot.model_copy(update={"parameters": "a=${b}"})
    head.cluster.nodes["n001"] = node.model_copy(update={"boot": boot})
    assert "iPXE would not pass on" in await head.text("boot.ipxe", N001)
    assert " a=${b}\n" in await head.text("pxelinux.cfg/default", N001)


async def test_bad_names_are_forbidden(head: Head) -> None:
    with pytest.raises(NotServed) as raised:
        await head.files.offer("../secret", N001)
    assert raised.value.forbidden
