"""The registry's verbs: message in, domain, message out."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from shoal_bus.api import Endpoint
from shoal_identity.trust import Trust
from shoal_model.messages import (
    ApplyRequest,
    BootReply,
    BootRequest,
    ChangeReply,
    ChangeRequest,
    Empty,
    ExportReply,
    MachinesReply,
    PublishImageRequest,
    PublishRootfsRequest,
    RecordsReply,
    RecordsRequest,
    ShowNodeReply,
    ShowNodeRequest,
)
from shoal_model.subjects import Service, node_in, rpc, rpc_of_every_node
from shoal_registry import change, document, publish, readings
from shoal_registry.ledger import Ledger
from shoal_registry.machines import Machines
from shoal_registry.mirror import Mirror

_BUILDER = "image-builder"


class Handlers:
    """Operators read what the store's leader has; a booting node is answered from memory at once.

    `trust` says who may sign images; None: this head has no keys and no certificate.
    """

    def __init__(
        self, ledger: Ledger, mirror: Mirror, machines: Machines, now: Callable[[], datetime], trust: Trust | None
    ) -> None:
        self._ledger = ledger
        self._mirror = mirror
        self._machines = machines
        self._now = now
        self._trust = trust

    def endpoints(self) -> list[Endpoint[Any]]:
        """Every verb with its message and handler."""

        def verb(name: str) -> str:
            return rpc(Service.REGISTRY, name)

        return [
            Endpoint(verb("change"), ChangeRequest, self.change),
            Endpoint(verb("apply"), ApplyRequest, self.apply),
            Endpoint(verb("export"), Empty, self.export),
            Endpoint(verb("list"), RecordsRequest, self.list),
            Endpoint(verb("show-node"), ShowNodeRequest, self.show_node),
            Endpoint(verb("discovered"), Empty, self.discovered),
            Endpoint(verb("publish-image"), PublishImageRequest, self.publish_image),
            Endpoint(verb("publish-rootfs"), PublishRootfsRequest, self.publish_rootfs),
            Endpoint(rpc_of_every_node(Service.REGISTRY, "boot"), BootRequest, self.boot),
        ]

    async def change(self, _: str, request: ChangeRequest) -> ChangeReply:
        """See `ChangeRequest`."""
        return await self._ledger.change(
            lambda snapshot, done: change.updates_of_operations(snapshot, request.operations, done),
            request.author,
            dry_run=request.dry_run,
            expected_revision=request.expected_revision,
        )

    async def apply(self, _: str, request: ApplyRequest) -> ChangeReply:
        """See `ApplyRequest`."""
        wanted = document.parse(request.document)
        return await self._ledger.change(
            lambda snapshot, _: change.updates_of_document(snapshot, wanted, request.document, request.prune),
            request.author,
            dry_run=request.dry_run,
            expected_revision=request.expected_revision,
        )

    async def export(self, _: str, __: Empty) -> ExportReply:
        """See `ExportReply`."""
        mirror = await self._ledger.current()
        return ExportReply(document=document.render(mirror.snapshot.cluster), revision=mirror.revision)

    async def list(self, _: str, request: RecordsRequest) -> RecordsReply:
        """See `RecordsRequest`."""
        mirror = await self._ledger.current()
        return readings.records(mirror.snapshot, request.kind, request.name, mirror.revision)

    async def show_node(self, _: str, request: ShowNodeRequest) -> ShowNodeReply:
        """See `ShowNodeRequest`."""
        mirror = await self._ledger.current()
        return readings.show(mirror.snapshot, request.node)

    async def discovered(self, _: str, __: Empty) -> MachinesReply:
        """See `MachinesReply`."""
        await self._ledger.current()
        return MachinesReply(machines=self._machines.listed())

    async def publish_image(self, _: str, request: PublishImageRequest) -> ChangeReply:
        """See `PublishImageRequest`."""
        release = publish.signed_release(request, self._trust, self._now())
        return await self._ledger.change(lambda snapshot, _: publish.image_release(snapshot, release), _BUILDER)

    async def publish_rootfs(self, _: str, request: PublishRootfsRequest) -> ChangeReply:
        """See `PublishRootfsRequest`."""
        at = self._now()
        return await self._ledger.change(lambda snapshot, _: publish.rootfs_release(snapshot, request, at), _BUILDER)

    async def boot(self, subject: str, _: BootRequest) -> BootReply:
        """See `BootRequest`. The node is the one that the subject names."""
        return readings.boot(self._mirror.snapshot, node_in(subject), tls=self._trust is not None)
