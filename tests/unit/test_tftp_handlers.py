"""Who asks for what, and what they get: the decisions behind both doors, with a clock that stands still."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.certificates import Authority
from shoal_dhcp import loaders
from shoal_identity import tokens
from shoal_identity.keys import Key
from shoal_model.messages import BootEvent, Status
from shoal_model.records import Cluster, ImageManifest, ImageRelease, Nic
from shoal_model.resolve import Snapshot
from shoal_model.subjects import Stage
from shoal_service.errors import Fatal
from shoal_service.store import BlobStore
from shoal_tftp import paths
from shoal_tftp.files import NotServed
from shoal_tftp.handlers import Asker, BootFiles, Door, Offer, Places
from shoal_tftp.identity import Identity, TrustFile
from shoal_tftp.settings import TftpSettings

AT = datetime(2026, 11, 20, 6, 0, 0, tzinfo=UTC)
N001 = Asker("10.77.0.11", "10.77.0.1", Door.TFTP)
N002 = Asker("10.77.0.12", "10.77.0.2", Door.HTTP)
STRANGER = Asker("10.77.0.99", "10.77.0.1", Door.HTTP)


class Head:
    """A boot file server without doors: records in memory, files in a directory, events in a list."""

    def __init__(self, folder: Path, identity: Identity | None = None) -> None:
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
        places = Places(self.store, self.own, (folder / "loaders",), identity or Identity())
        self.files = BootFiles(self, places, self.events.append, lambda: AT, lambda: self.seconds)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.cluster, self.releases, {})

    def node_by_address(self, ip: str) -> str | None:
        for name, node in self.cluster.nodes.items():
            if ip in (node.address, *(nic.address for nic in node.nics)):
                return name
        return None

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
    with pytest.raises(NotServed, match="cannot be read: image: Field required") as raised:
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


async def test_a_squashfs_is_found_by_its_digest_and_nothing_else_of_the_store_is(head: Head, tmp_path: Path) -> None:
    old = head.releases["compute"].manifest.squashfs.sha256
    new = head.release(b"second")
    assert (await head.files.squashfs(old)).read_bytes() == b"firstsquashfs"
    assert (await head.files.squashfs(new.squashfs.sha256)).read_bytes() == b"secondsquashfs"
    (tmp_path / "archive").write_bytes(b"host keys")
    archive, _ = head.store.add(tmp_path / "archive")
    lying = head.store.root / "manifests" / f"{archive}.json"
    for digest in (archive, new.kernel.sha256, new.initrd.sha256, "compute", "../manifests", "0" * 64, ""):
        with pytest.raises(NotServed):
            await head.files.squashfs(digest)
    lying.write_text(new.model_dump_json())
    with pytest.raises(NotServed, match="is of another image"):
        await head.files.squashfs(archive)


# --- proven boots -------------------------------------------------------------------------------------------------


class ProvenHead(Head):
    """One with a boot key and a trust file."""

    def __init__(self, folder: Path) -> None:
        self.key, self.ca = Key.new(), folder / "ca.crt"
        self.ca.write_bytes(Authority().trust.dump())
        super().__init__(folder, Identity(TrustFile(self.ca), self.key))

    def token(self, script: str) -> tokens.BootToken:
        return tokens.read(word(script, "shoal.token"), [self.key.public])


def word(script: str, name: str) -> str:
    """The value of the first kernel parameter of that name."""
    return next(each for each in script.split() if each.startswith(f"{name}=")).removeprefix(f"{name}=")


@pytest.fixture
def proven(tmp_path: Path) -> ProvenHead:
    return ProvenHead(tmp_path)


@pytest.mark.parametrize("name", ["boot.ipxe", "pxelinux.cfg/default", "pxelinux.cfg/0A4D000B"])
async def test_a_script_proves_the_boot_of_the_one_who_asks(proven: ProvenHead, name: str) -> None:
    script = await proven.text(name, N001)
    token = proven.token(script)
    assert (token.node, token.mac, token.address) == ("n001", "52:54:00:77:00:11", "10.77.0.11")
    assert token.boot == word(script, "shoal.boot") == proven.events[-1].boot
    assert token.not_after == AT.timestamp() + 1800
    assert word(script, "shoal.nats") == "tls://10.77.0.1:4222"
    assert proven.token(await proven.text(name, N001)).boot == token.boot


async def test_a_token_is_for_no_other_address_of_the_node(proven: ProvenHead) -> None:
    node = proven.cluster.nodes["n001"]
    nic = Nic(mac="52:54:00:78:00:11", network="boot", address="10.77.0.111")
    proven.cluster.nodes["n001"] = node.model_copy(update={"nics": [nic]})
    for name in ("boot.ipxe", "pxelinux.cfg/default"):
        script = await proven.text(name, Asker("10.77.0.111", "10.77.0.1", Door.TFTP))
        assert "n001 cannot boot" in script
        assert "shoal.token" not in script
    event = proven.events[-1]
    assert event.status is Status.FAILED
    assert event.reason is not None
    assert event.reason.startswith("node n001 asks from 10.77.0.111, and boots from 10.77.0.11 ")


async def test_who_is_no_node_or_cannot_boot_gets_no_token(proven: ProvenHead) -> None:
    assert "shoal.token" not in await proven.text("boot.ipxe", STRANGER)
    proven.releases.clear()
    assert "shoal.token" not in await proven.text("boot.ipxe", N001)


async def test_a_token_is_in_no_event_and_in_nothing_that_is_shown(proven: ProvenHead) -> None:
    offer = await proven.files.offer("boot.ipxe", N001)
    assert isinstance(offer.body, bytes)
    token = word(offer.body.decode(), "shoal.token")
    proven.files.sent(offer, N001, len(offer.body))
    proven.files.failed(offer, N001, "gone")
    assert len(proven.events) == 2
    assert all(token not in shown for shown in (repr(offer), *map(repr, proven.events)))


async def ca(head: Head, asker: Asker) -> bytes:
    offer: Offer = await head.files.offer("shoal/ca.crt", asker)
    assert isinstance(offer.body, bytes)
    return offer.body


async def test_the_trust_file_is_the_one_that_the_script_names_even_if_it_changes_meanwhile(
    proven: ProvenHead,
) -> None:
    old = proven.ca.read_bytes()
    digest = word(await proven.text("boot.ipxe", N001), "shoal.ca")
    assert digest == hashlib.sha256(old).hexdigest()
    replace_file(proven.ca, Authority().trust.dump())
    assert await ca(proven, N001) == old
    assert await ca(proven, STRANGER) == await ca(proven, N002) == proven.ca.read_bytes()
    assert word(await proven.text("boot.ipxe", N001), "shoal.ca") == hashlib.sha256(proven.ca.read_bytes()).hexdigest()
    assert await ca(proven, N001) == proven.ca.read_bytes()
    assert proven.events[-1].stage is Stage.LOADER_CONFIG  # nobody follows the trust file


@pytest.mark.parametrize("content", [b"", b"nothing", None])
async def test_a_trust_file_that_has_become_none_stays_what_it_was(proven: ProvenHead, content: bytes | None) -> None:
    old = proven.ca.read_bytes()
    proven.ca.unlink()
    if content is not None:
        proven.ca.write_bytes(content)
    assert word(await proven.text("boot.ipxe", N001), "shoal.ca") == hashlib.sha256(old).hexdigest()
    assert await ca(proven, STRANGER) == old


async def test_without_a_trust_file_there_is_none(head: Head) -> None:
    with pytest.raises(NotServed, match="set SHOAL_CA"):
        await ca(head, N001)


def replace_file(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


# --- settings -----------------------------------------------------------------------------------------------------


def refused(settings: TftpSettings) -> str:
    with pytest.raises(Fatal) as raised:
        Identity.of(settings)
    return str(raised.value)


def test_what_identity_the_settings_give(tmp_path: Path) -> None:
    trust, key = tmp_path / "ca.crt", tmp_path / "boot.seed"
    trust.write_bytes(Authority().trust.dump())
    Key.new().write(key)
    assert Identity.of(TftpSettings()) == Identity()
    open_ = Identity.of(TftpSettings(ca=trust))
    assert open_.issuer(open_.trust.now() if open_.trust else None) is None
    assert Identity.of(TftpSettings(ca=trust, boot_key=key)).key == Key.read(key)
    assert "SHOAL_BOOT_KEY without SHOAL_CA" in refused(TftpSettings(boot_key=key))
    key.chmod(0o640)
    assert "may be read by others" in refused(TftpSettings(ca=trust, boot_key=key))
    key.unlink()
    assert "No such file" in refused(TftpSettings(ca=trust, boot_key=key))
    trust.write_bytes(b"nothing")
    assert refused(TftpSettings(ca=trust)) == f"cannot use {trust} (SHOAL_CA): ca.crt holds no certificate"
