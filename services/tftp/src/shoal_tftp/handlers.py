"""The one virtual tree behind both doors: who asks for what, and what they get."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from shoal_model import names, ports
from shoal_model.messages import BootEvent, Status
from shoal_model.resolve import Snapshot
from shoal_model.subjects import Stage
from shoal_service.store import BlobStore
from shoal_tftp import files, paths, plan, scripts
from shoal_tftp.boots import Boots
from shoal_tftp.files import NotServed
from shoal_tftp.identity import Identity, Trusted
from shoal_tftp.images import Images
from shoal_tftp.proof import Issuer

Details = dict[str, str | int | float | bool]
_STAGES = {paths.Part.KERNEL: Stage.LOADER_KERNEL, paths.Part.INITRD: Stage.LOADER_INITRD}


class Door(StrEnum):
    """How a client came in."""

    TFTP = "tftp"
    HTTP = "http"


@dataclass(frozen=True)
class Asker:
    """A client: its address, and the address of this head at which it asks (a head may have several)."""

    address: str
    head: str
    door: Door


@dataclass(frozen=True)
class Offer:
    """What a client gets: bytes, which may hold its token, or a file to be read. `stage` None: nobody follows it."""

    name: str
    body: bytes | Path = field(repr=False)
    node: str | None = None
    boot: str | None = None
    stage: Stage | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Places:
    """Where files lie."""

    store: BlobStore
    own: Path
    loaders: tuple[Path, ...]
    identity: Identity = field(default_factory=Identity)


class Records(Protocol):
    """The records as this service sees them."""

    @property
    def snapshot(self) -> Snapshot:
        """All of them, now."""

    def node_by_address(self, ip: str) -> str | None:
        """The node with this address."""


class BootFiles:
    """Answers requests of both doors. `offer` decides and reads nothing large; the doors do the sending."""

    def __init__(
        self,
        records: Records,
        places: Places,
        announce: Callable[[BootEvent], None],
        now: Callable[[], datetime],
        seconds: Callable[[], float],
    ) -> None:
        self._records = records
        self._places = places
        self._images = Images(lambda: records.snapshot, places.store)
        self._announce = announce
        self._now = now
        self._seconds = seconds
        self._boots = Boots(lambda: secrets.token_hex(8))
        self._named: dict[str, Trusted] = {}
        """The trust file that a node's script names: it gets no other one, whatever became of the file since."""

    async def offer(self, name: str, asker: Asker) -> Offer:
        """What `asker` gets for this file name. Raises NotServed."""
        try:
            wanted = paths.locate(name)
        except paths.BadPath as error:
            raise NotServed(str(error), forbidden=True) from None
        node = self._records.node_by_address(asker.address)
        match wanted:
            case paths.NodeConfig(host_id):
                return await self._node_config(name, host_id, node, asker)
            case paths.DefaultConfig() | paths.IpxeScript():
                return await self._script(name, wanted, node, asker)
            case paths.ImageFile(image, part):
                return await self._image_file(name, image, part, node, asker)
            case paths.LoaderFile(loader, package):
                return await self._loader(loader, package, node, asker)
            case paths.TrustFile():
                return await self._trust_file(name, node)
            case paths.OwnFile(path):
                return Offer(name, await asyncio.to_thread(files.own_file, self._places.own, path))

    def sent(self, offer: Offer, asker: Asker, size: int) -> None:
        """A client has got the whole of an offer: `size` bytes."""
        if offer.node is not None and offer.stage is not None:
            details: Details = {"bytes": size, "door": asker.door.value}
            if offer.stage is Stage.LOADER_CONFIG:
                details["file"] = offer.name
            self._tell(offer.node, offer.stage, offer.boot, offer.refused, details)

    def failed(self, offer: Offer, asker: Asker, reason: str) -> None:
        """A client did not get an offer to its end."""
        if offer.node is not None and offer.stage is not None:
            self._tell(offer.node, offer.stage, offer.boot, reason, {"door": asker.door.value})

    # --- scripts ----------------------------------------------------------------------------------------------

    async def _node_config(self, name: str, host_id: str, node: str | None, asker: Asker) -> Offer:
        """`pxelinux.cfg/<Hostid>`, for the owner of that address alone."""
        if names.host_id(asker.address) != host_id:
            raise NotServed(f"{name} is for the node with that address alone", worth_a_log=True)
        record = self._records.snapshot.cluster.nodes.get(node) if node is not None else None
        if record is not None and plan.has_own_config(record):
            return await self._script(name, paths.DefaultConfig(), node, asker)
        return Offer(name, await asyncio.to_thread(files.own_file, self._places.own, f"pxelinux.cfg/{host_id}"))

    async def _script(
        self, name: str, wanted: paths.DefaultConfig | paths.IpxeScript, node: str | None, asker: Asker
    ) -> Offer:
        """Render the script for the node at this address, as the records are now."""
        ipxe = isinstance(wanted, paths.IpxeScript)
        trusted = await self._trusted()
        decided = await self._decide(node, asker, self._places.identity.issuer(trusted), ipxe=ipxe)
        refused = decided.reason if isinstance(decided, plan.Refusal) else None
        boot = secrets.token_hex(8) if node is None else self._boots.ask(node, self._seconds(), refused)
        base = f"http://{asker.head}:{ports.BOOT_HTTP}"
        if isinstance(decided, plan.Refusal):
            text = scripts.ipxe_refusal(decided, boot, base) if ipxe else scripts.pxelinux_refusal(decided)
        elif ipxe:
            text = scripts.ipxe(decided, boot, self._now(), base)
        else:
            text = scripts.pxelinux(decided, boot, self._now())
        if node is not None and trusted is not None:
            self._named[node] = trusted
        return Offer(name, text.encode(), node, boot, Stage.LOADER_CONFIG, refused)

    async def _decide(
        self, node: str | None, asker: Asker, issuer: Issuer | None, *, ipxe: bool
    ) -> plan.Plan | plan.Refusal:
        if node is None:
            return plan.Refusal(None, f"no node has the address {asker.address}: register it with `shoal node add`")
        decided = plan.decide(self._records.snapshot, node, issuer)
        if isinstance(decided, plan.Refusal):
            return decided
        reason = plan.unprovable(decided, asker.address) or (scripts.ipxe_cannot(decided) if ipxe else None)
        if reason is not None:
            return plan.Refusal(node, reason)
        manifest = decided.manifest
        absent = await self._images.missing(decided.image, manifest.kernel.sha256, manifest.initrd.sha256)
        return decided if absent is None else plan.Refusal(node, absent)

    # --- files ------------------------------------------------------------------------------------------------

    async def _image_file(self, name: str, image: str, part: paths.Part, node: str | None, asker: Asker) -> Offer:
        manifest = await self._images.manifest(image)
        wanted = {"kernel": manifest.kernel, "initrd": manifest.initrd, "squashfs": manifest.squashfs}[part.value]
        boot, stage = None if node is None else self._boots.current(node), _STAGES.get(part)
        try:
            return Offer(name, await self._images.file(manifest, wanted.sha256), node, boot, stage)
        except NotServed as error:
            self.failed(Offer(name, b"", node, boot, stage), asker, str(error))
            raise

    async def squashfs(self, digest: str) -> Path:
        """The squashfs with this digest, if an image has it. Raises NotServed."""
        return await self._images.squashfs(digest)

    async def _trust_file(self, name: str, node: str | None) -> Offer:
        trusted = await self._trusted()
        if trusted is None:
            raise NotServed("this head has no trust file: set SHOAL_CA", worth_a_log=True)
        return Offer(name, (trusted if node is None else self._named.get(node, trusted)).body)

    async def _trusted(self) -> Trusted | None:
        trust = self._places.identity.trust
        return None if trust is None else await asyncio.to_thread(trust.now)

    async def _loader(self, loader: str, package: str | None, node: str | None, asker: Asker) -> Offer:
        places = self._places
        try:
            return Offer(loader, await asyncio.to_thread(files.loader, places.own, places.loaders, loader, package))
        except NotServed as error:
            # Without its loader the node never asks for a script: this is the one place to say why.
            self.failed(Offer(loader, b"", node, None, Stage.LOADER_CONFIG), asker, str(error))
            raise

    def _tell(
        self,
        node: str,
        stage: Stage,
        boot: str | None,
        reason: str | None,
        details: Details,
    ) -> None:
        if self._boots.news(node, stage, reason):
            status = Status.OK if reason is None else Status.FAILED
            self._announce(
                BootEvent(
                    node=node, stage=stage, at=self._now(), boot=boot, status=status, reason=reason, details=details
                )
            )
