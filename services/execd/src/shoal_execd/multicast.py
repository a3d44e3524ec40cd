"""The way by multicast: join over the bus, receive in a thread, leave over the bus."""

import asyncio
from dataclasses import dataclass

from shoal_bus.errors import BusError
from shoal_execd import network
from shoal_execd.landing import Image
from shoal_execd.pauses import Pauses
from shoal_execd.timeline import Link
from shoal_mcast.client import receive_image
from shoal_mcast.session import Join, Outcome
from shoal_model import subjects
from shoal_model.subjects import Service

_ASK = 10.0
_TRIES = 3
_REASON = 400


@dataclass(frozen=True)
class Multicast:
    """How this node takes part in the multicast of an image. `address` is its own IPv4 address."""

    bus: Link
    node: str
    boot: str
    address: str
    interface: str = network.NAME

    async def receive(self, image: Image, sha256: str) -> str | None:
        """Receive the missing blocks; why not all of them came, or None."""
        try:
            join = Join.from_map(await self._join(sha256, len(image.missing)))
        except (BusError, ValueError) as error:
            return f"the head's multicast server gave no session: {error}"
        if join.geometry() != image.geometry:
            return f"the session has the geometry {join.geometry()}, the manifest {image.geometry}"
        outcome = await asyncio.to_thread(receive_image, image, join, interface=self.interface)
        await self._leave(join, outcome)
        return outcome.reason

    async def _join(self, sha256: str, missing: int) -> dict[str, object]:
        subject = subjects.rpc(Service.MCASTD, "join", self.node)
        request = {"boot": self.boot, "image": sha256, "address": self.address, "missing": missing}
        pauses = Pauses(first=1.0, longest=4.0)
        for _ in range(_TRIES - 1):
            try:
                return await self.bus.request(subject, request, timeout=_ASK)
            except BusError:  # it may be starting anew; the last try tells the reason
                await asyncio.sleep(pauses.next())
        return await self.bus.request(subject, request, timeout=_ASK)

    async def _leave(self, join: Join, outcome: Outcome) -> None:
        """Tell that this node needs no more. Nobody waits for us: what is not heard of any more is forgotten."""
        subject = subjects.rpc(Service.MCASTD, "leave", self.node)
        reason = None if outcome.reason is None else outcome.reason[:_REASON]
        request = {"boot": self.boot, "session": join.session, "complete": outcome.complete, "reason": reason}
        try:
            await self.bus.publish(subject, request)
        except BusError:
            return
