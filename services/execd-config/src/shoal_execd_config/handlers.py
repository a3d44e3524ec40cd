"""Messages in, options out. What a node is to be is decided in `options`, nowhere else."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from structlog.stdlib import BoundLogger

from shoal_bus.api import Bus, Endpoint
from shoal_bus.errors import BusError, Conflict, Invalid, NotFound
from shoal_execd_config.archive_source import Elsewhere, archive
from shoal_execd_config.delivery import content_of, fitted
from shoal_execd_config.options import node_options
from shoal_execd_config.preview import ArchiveProblem, NamedArchive, preview
from shoal_model import names, subjects
from shoal_model.messages import AnnounceReply, AnnounceRequest, NodeOptions, PreviewReply, PreviewRequest
from shoal_model.records import Kind
from shoal_model.resolve import Snapshot, Unresolvable
from shoal_model.subjects import Service
from shoal_service.store import BlobStore

_SETTLE = 0.2
_PREVIEWS = 4


@dataclass(frozen=True)
class Doors:
    """How the HTTP doors of this cluster's heads are reached: whether with TLS, and with which trust file."""

    scheme: str = "http"
    ca: Path | None = None


class Options:
    """Answers announcements and previews. A node with records that do not say enough is remembered until they do."""

    def __init__(
        self, bus: Bus, snapshot: Callable[[], Snapshot], store: BlobStore, log: BoundLogger, doors: Doors | None = None
    ) -> None:
        self._bus = bus
        self._snapshot = snapshot
        self._store = store
        self._log = log
        self._doors = doors or Doors()
        self._waiting: set[str] = set()
        self._changed = asyncio.Event()
        self._previews = asyncio.Semaphore(_PREVIEWS)

    @property
    def endpoints(self) -> list[Endpoint]:
        """What the service listens to."""
        return [
            Endpoint(subjects.rpc_of_every_node(Service.EXECD_CONFIG, "announce"), AnnounceRequest, self.announce),
            Endpoint(subjects.rpc(Service.EXECD_CONFIG, "preview"), PreviewRequest, self.preview),
        ]

    async def announce(self, subject: str, request: AnnounceRequest) -> AnnounceReply:
        """`rpc.execd-config.v1.announce.<node>`: send the node its options."""
        try:
            node = subjects.node_in(subject)
        except ValueError as error:
            raise Invalid(str(error)) from error
        try:
            options = self._options(node)
        except Conflict:
            self._waiting.add(node)
            raise
        await self._send(options)
        self._log.info("options.announced", node=node, boot=request.boot, generation=options.generation[:12])
        return AnnounceReply(generation=options.generation)

    async def preview(self, _: str, request: PreviewRequest) -> PreviewReply:
        """`rpc.execd-config.v1.preview`: what the node would get now."""
        options = self._options(request.node)
        elsewhere = Elsewhere(options.sources[1:], self._doors.ca)  # our own door has what our store has
        async with self._previews, AsyncExitStack() as opened:
            archives = [
                NamedArchive(each.name, await opened.enter_async_context(archive(self._store, each.archive, elsewhere)))
                for each in options.archives
            ]
            try:
                return await asyncio.to_thread(preview, options, archives)
            except ArchiveProblem as error:
                raise Invalid(str(error)) from error

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """`GET /blobs/<sha256>?node=<id>`: what this node's options name now, and 404 for all else: a content, worked
        out anew, as nothing is kept, or the archive of a customization, if this head's store has it.
        """
        try:
            digest = names.digest(request.match_info["digest"])
            options = self._options(names.name(request.query.get("node", "")))
        except (ValueError, BusError) as error:
            raise web.HTTPNotFound(text=f"{error}\n") from None
        content = content_of(options, digest)
        if content is not None:
            return web.Response(body=content, content_type="application/octet-stream")
        if any(each.archive.sha256 == digest for each in options.archives):
            return await self._store.serve(request)
        raise web.HTTPNotFound(text=f"the options of {options.node} name no content {digest}\n")

    def record_changed(self, _: Kind, __: str) -> None:
        """A record is another one now: it may be what a node waits for."""
        self._changed.set()

    async def supply_waiting(self) -> None:
        """Send options to nodes that announced themselves too early, once the records say enough. For ever."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_SETTLE)  # a change of many records is one
            self._changed.clear()
            for node in sorted(self._waiting):
                await self._supply(node)

    async def _supply(self, node: str) -> None:
        try:
            options = self._options(node)
            await self._send(options)
            self._log.info("options.supplied", node=node, generation=options.generation[:12])
        except Conflict:
            return  # it was told why when it asked, and will be when it asks again
        except NotFound:
            self._waiting.discard(node)
        except BusError as error:
            self._log.warning("options.unsent", node=node, error=str(error))

    def _options(self, node: str) -> NodeOptions:
        """The node's options as the records are now. Raises NotFound or Conflict."""
        snapshot = self._snapshot()
        if node not in snapshot.cluster.nodes:
            raise NotFound(f"there is no node {node!r}: `shoal node list` shows those there are")
        try:
            return node_options(snapshot, node, self._doors.scheme)
        except Unresolvable as error:
            raise Conflict(str(error)) from error

    async def _send(self, options: NodeOptions) -> None:
        await self._bus.publish(subjects.node_topic(options.node, "options"), fitted(options))
        self._waiting.discard(options.node)
