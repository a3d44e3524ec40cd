"""The sessions of this head: one for each image that is wanted now. Opened by the first join, started by `gather`."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from structlog.stdlib import BoundLogger

from shoal_bus.api import Bus
from shoal_bus.errors import BusError, Denied, NotFound, Unavailable
from shoal_mcast.sender import Options
from shoal_mcastd import metrics
from shoal_mcastd.gather import Booting, Gathering, may_start
from shoal_mcastd.images import MappedImage, image_of, manifest_of
from shoal_mcastd.session import Session, choose_group
from shoal_mcastd.settings import Settings
from shoal_mcastd.transmitter import Route
from shoal_model import ports, resolve, subjects
from shoal_model.messages import BootEvent, JoinReply, JoinRequest, LeaveRequest, SessionInfo
from shoal_service.records import RecordsView
from shoal_service.store import BlobStore
from shoal_service.tls import scheme

_MOST = 8
"""Sessions at a time; nodes that want yet another image get it over HTTP."""
_KEPT = 50
_TICK = 0.1
_STOP_WITHIN = 2.0


@dataclass(frozen=True)
class Head:
    """What the sessions need of the rest of the service."""

    bus: Bus
    tasks: asyncio.TaskGroup
    view: RecordsView
    store: BlobStore
    settings: Settings
    log: BoundLogger
    now: Callable[[], datetime]


class Sessions:
    """Joins and leaves go in, events come out; `run` looks after the sessions meanwhile."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._booting = Booting()
        self._running: dict[str, Session] = {}
        self._counted: dict[str, metrics.Counted] = {}
        self._ended: deque[SessionInfo] = deque(maxlen=_KEPT)
        self._opening = asyncio.Lock()

    # --- what nodes want ------------------------------------------------------------------------------------

    async def join(self, node: str, request: JoinRequest) -> JoinReply:
        """Take a node into the session of its image. Raises NotFound, Denied, Unavailable."""
        self._check(node, request.address)
        async with self._opening:
            session = self._running.get(request.image) or await self._open(request.image)
            receiver = session.add(node, request.boot, request.address)
            if receiver is None:  # it ended in this very moment
                await self._close(session)
                session = await self._open(request.image)
                receiver = session.add(node, request.boot, request.address)
        if receiver is None:
            raise Unavailable(f"the session of image {request.image[:12]} ended at once: ask again")
        self._booting.forget(node)
        self._head.log.info(
            "session.join", session=session.id, node=node, boot=request.boot, image=request.image[:12],
            missing=request.missing, late=session.started,
        )  # fmt: skip
        return self._reply(session, receiver)

    async def leave(self, node: str, request: LeaveRequest) -> None:
        """A node is through with a session, or gives up on it. One that is over already is no error."""
        self._booting.forget(node)
        log = self._head.log.bind(session=f"{request.session:08x}", node=node, boot=request.boot)
        if request.complete:
            log.info("session.complete")
        else:
            log.warning("session.leave", reason=request.reason)
        for session in self._running.values():
            if session.number == request.session and session.boots.get(node) == request.boot:
                if request.complete:
                    session.complete(node)
                else:
                    session.remove(node)

    def hear(self, subject: str, event: BootEvent) -> None:
        """A boot event of any node: it tells who will join soon. A node may publish on its own subjects alone, so what
        came on another one than it says is somebody else's word, and counts for nothing.
        """
        if subject != subjects.boot_event(event.node, event.stage):
            return
        named = event.details.get("image")
        image = named if isinstance(named, str) else image_of(self._head.view.snapshot, event.node)
        self._booting.hear(event, image, time.monotonic())

    def list(self) -> list[SessionInfo]:
        """Sessions that run, then those that ended, the latest first."""
        return [session.info() for session in self._running.values()] + list(self._ended)

    # --- looking after them ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start and end sessions at their time; when cancelled, end them all."""
        try:
            while True:
                await asyncio.sleep(_TICK)
                for session in list(self._running.values()):
                    await self._look_after(session)
                self._measure()
        finally:
            for session in self._running.values():
                session.stop()
            threads = (session.transmitter.join for session in self._running.values())
            await asyncio.gather(*(asyncio.to_thread(join, _STOP_WITHIN) for join in threads))

    async def _look_after(self, session: Session) -> None:
        now = time.monotonic()
        trouble = session.transmitter.trouble
        if trouble is not None and str(trouble) != session.trouble:
            session.trouble = str(trouble)
            self._head.log.warning("session.trouble", session=session.id, group=session.route.group, error=str(trouble))
        if not session.transmitter.alive:
            async with self._opening:
                await self._close(session)
        elif not session.started:
            await self._start_if_due(session, now)

    async def _start_if_due(self, session: Session, now: float) -> None:
        awaited = self._booting.awaited(session.image.digest, now) - session.receivers.keys()
        status = session.transmitter.status
        gathering = Gathering(session.since, len(session.receivers), status.ready, len(awaited))
        if may_start(gathering, self._head.settings.gather, now):
            for node in awaited:
                self._booting.forget(node)
            session.start()
            self._head.log.info(
                "session.start", session=session.id, group=session.route.group, receivers=len(session.receivers),
                waited=round(now - session.since, 3), in_vain_for=sorted(awaited)[:20],
            )  # fmt: skip
            self._tell(session, "started", session.info())

    def _measure(self) -> None:
        for session in self._running.values():
            self._counted[session.id].add(session.transmitter.status)
        statuses = [session.transmitter.status for session in self._running.values()]
        metrics.SESSIONS.set(len(statuses))
        metrics.RECEIVERS.set(sum(status.receivers - status.complete - status.lost for status in statuses))

    # --- opening and closing --------------------------------------------------------------------------------

    def _check(self, node: str, address: str) -> None:
        record = self._head.view.snapshot.cluster.nodes.get(node)
        if record is None:
            raise NotFound(f"there is no node {node!r}: it cannot join")
        known = {record.address, *(nic.address for nic in record.nics)}
        if address not in known:
            raise Denied(f"node {node} has {', '.join(sorted(known))}, not {address}: it cannot join from there")

    async def _open(self, digest: str) -> Session:
        if len(self._running) >= _MOST:
            raise Unavailable(f"{_MOST} multicast sessions run already: fetch image {digest[:12]} over HTTP")
        head, view = self._head, self._head.view
        if not head.store.has(digest):
            raise NotFound(f"this head's store holds no image {digest}: is it built and published?")
        try:
            source = resolve.boot_network(view.snapshot.cluster)[1].head or ""
        except resolve.Unresolvable as error:
            raise Unavailable(str(error)) from error
        manifest = await asyncio.to_thread(manifest_of, view.snapshot, head.store, digest)
        image = await asyncio.to_thread(MappedImage, head.store.path(digest), manifest)
        number = secrets.randbits(32)
        taken = {session.route.group for session in self._running.values()}
        group = choose_group(number, head.settings.groups, taken)
        route = Route(source, head.settings.interface, group, ports.IMAGE_MULTICAST)
        session = Session.open(image, route, Options(head.settings.rate), head.now(), number)
        session.transmitter.start()
        self._running[digest] = session
        self._counted[session.id] = metrics.Counted()
        self._share_rate()
        head.log.info("session.open", session=session.id, group=group, port=route.port, image=digest[:12])
        return session

    async def _close(self, session: Session) -> None:
        if self._running.get(session.image.digest) is not session:
            return
        await asyncio.to_thread(session.transmitter.join, _STOP_WITHIN)
        del self._running[session.image.digest]
        status, info = session.transmitter.status, session.info(ended=self._head.now())
        self._counted.pop(session.id).add(status)
        metrics.finished(status, info.receivers)
        self._share_rate()
        self._ended.appendleft(info)
        self._head.log.info(
            "session.end", session=session.id, receivers=info.receivers, complete=info.complete, lost=status.lost,
            sent=info.sent, repairs=status.repairs, ratio=round(info.sent / info.size, 3),
            seconds=round(time.monotonic() - session.since, 3),
        )  # fmt: skip
        self._tell(session, "ended", info)

    def _share_rate(self) -> None:
        for session in self._running.values():
            session.limit(self._head.settings.rate / len(self._running))

    def _tell(self, session: Session, what: str, info: SessionInfo) -> None:
        """Emit an event in a task of its own: sessions do not wait for the bus."""
        self._head.tasks.create_task(self._emit(session.id, what, info))

    async def _emit(self, session: str, what: str, info: SessionInfo) -> None:
        try:
            await self._head.bus.emit(subjects.event("session", session, what), info, id=f"{session}-{what}")
        except BusError as error:  # the session goes on without the bus; its log line stands
            self._head.log.warning("session.event_lost", session=session, what=what, error=str(error))

    def _reply(self, session: Session, receiver: int) -> JoinReply:
        geometry, route = session.image.geometry, session.route
        return JoinReply(
            session=session.number,
            source=route.source,
            group=route.group,
            port=route.port,
            control_port=session.transmitter.control_port,
            receiver=receiver,
            size=geometry.size,
            symbol_size=geometry.symbol_size,
            block_symbols=geometry.block_symbols,
            http=f"{scheme(self._head.settings)}://{route.source}:{ports.IMAGE_HTTP}/blobs/{session.image.digest}",
        )
