"""image-builder's verbs: message in, domain, message out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal_bus.api import Bus, Endpoint
from shoal_bus.errors import Invalid
from shoal_image_builder.images.assemble import Places
from shoal_image_builder.images.builds import Builds
from shoal_image_builder.layers.entry import LayerError
from shoal_image_builder.modules.shelf import Module, offered
from shoal_image_builder.process import Cancel
from shoal_image_builder.registry import TIMEOUT, recorded
from shoal_image_builder.rootfs import BadTree, pack_tree
from shoal_image_builder.threads import in_thread
from shoal_image_builder.worker import BUILD, build_id
from shoal_model.messages import (
    BuildImageJob,
    BuildReply,
    BuildRequest,
    CommitRootfsReply,
    CommitRootfsRequest,
    Empty,
    ModuleInfo,
    ModulesReply,
    PublishRootfsRequest,
)
from shoal_model.records import StoredFile
from shoal_model.subjects import Service, rpc


class Handlers:
    """`trees` is the directory of the Root FS customizations."""

    def __init__(self, bus: Bus, places: Places, trees: Path) -> None:
        self._bus, self._places, self._trees = bus, places, trees

    def endpoints(self) -> Sequence[Endpoint[Any]]:
        """Every verb with its message and handler."""
        return [
            Endpoint(rpc(Service.IMAGE_BUILDER, "build"), BuildRequest, self.build),
            Endpoint(rpc(Service.IMAGE_BUILDER, "commit-rootfs"), CommitRootfsRequest, self.commit_rootfs),
            Endpoint(rpc(Service.IMAGE_BUILDER, "modules"), Empty, self.modules),
        ]

    async def build(self, _: str, request: BuildRequest) -> BuildReply:
        """See `BuildRequest`. NotFound if there is no such image."""
        identity = build_id(request.name, await recorded(self._bus, request.name))
        await self._bus.enqueue(BUILD, BuildImageJob(name=request.name), id=identity)
        return BuildReply(job=identity)

    async def commit_rootfs(self, _: str, request: CommitRootfsRequest) -> CommitRootfsReply:
        """See `CommitRootfsRequest`. Invalid if the tree is missing or holds what cannot be sent to a node."""
        try:
            archive, files = await in_thread(lambda _: self._pack(request.name))
        except BadTree as error:
            raise Invalid(str(error)) from error
        published = PublishRootfsRequest(name=request.name, archive=archive, files=files)
        await self._bus.call(rpc(Service.REGISTRY, "publish-rootfs"), published, Empty, timeout=TIMEOUT)
        return CommitRootfsReply(archive=archive, files=files)

    async def modules(self, _: str, __: Empty) -> ModulesReply:
        """See `ModulesReply`. Invalid names a package that is damaged."""
        try:
            found = await in_thread(self._offered)
        except LayerError as error:
            raise Invalid(str(error)) from error
        return ModulesReply(modules=[_info(module) for module in found])

    def _offered(self, _: Cancel) -> list[Module]:
        return offered(self._places.modules)

    def _pack(self, name: str) -> tuple[StoredFile, int]:
        with Builds(self._places.store).workspace() as work:
            files = pack_tree(self._trees / name, work / "archive")
            digest, size = self._places.store.add(work / "archive")
        return StoredFile(sha256=digest, size=size), files


def _info(module: Module) -> ModuleInfo:
    return ModuleInfo(
        name=module.name,
        version=module.version,
        flavor=module.flavor,
        sha256=module.sha256,
        size=module.size,
        packages=module.packages,
        description=module.description,
    )
