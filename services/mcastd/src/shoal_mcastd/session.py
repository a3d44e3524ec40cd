"""One session: an image, who receives it, and the thread that sends it."""

import hashlib
import ipaddress
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from shoal_bus.errors import Unavailable
from shoal_mcast.sender import Options, Sender
from shoal_mcastd.images import MappedImage
from shoal_mcastd.transmitter import Route, Transmitter, open_socket
from shoal_model.messages import SessionInfo


def choose_group(session: int, network: str, taken: Collection[str]) -> str:
    """The group of a session: by hash, and not one that is in use. Its low 23 bits are never 0: those make the MAC."""
    groups = ipaddress.IPv4Network(network)
    for attempt in range(1024):
        digest = hashlib.sha256(b"%08x.%d" % (session, attempt)).digest()
        group = groups[1 + int.from_bytes(digest[:8], "big") % (groups.num_addresses - 2)]
        if str(group) not in taken:
            return str(group)
    raise Unavailable(f"all multicast groups of {network} are in use")


@dataclass
class Session:
    """`since` is a time of the monotonic clock. `receivers` maps nodes to the ids they sign their reports with, `boots`
    every node that ever joined to its boot id. `trouble` is the last of the network's refusals that was logged.
    """

    number: int
    image: MappedImage
    route: Route
    transmitter: Transmitter
    since: float
    begun: datetime
    receivers: dict[str, int] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)
    started: bool = False
    trouble: str | None = None

    @classmethod
    def open(cls, image: MappedImage, route: Route, options: Options, begun: datetime, number: int) -> "Session":
        """A session without receivers yet, its socket open. Raises Unavailable, naming what the system refuses."""
        sender = Sender(number, bytes.fromhex(image.digest), image.geometry, image.read, options)
        try:
            udp = open_socket(route, sender.segment)
        except OSError as error:
            raise Unavailable(
                f"cannot send to {route.group} from {route.source} on {route.interface or 'its interface'}: {error}; "
                "check SHOAL_INTERFACE and the `head` address of the boot network"
            ) from error
        return cls(number, image, route, Transmitter(sender, udp, route), time.monotonic(), begun)

    @property
    def id(self) -> str:
        """The session as it stands in subjects and logs: 8 hex digits."""
        return f"{self.number:08x}"

    def add(self, node: str, boot: str, address: str) -> int | None:
        """A node joins, or joins again; its receiver id, or None if the session has just ended."""
        receiver = secrets.randbits(32)
        while receiver in self.receivers.values():
            receiver = secrets.randbits(32)
        self.remove(node)
        if not self.transmitter.tell(lambda sender, now: sender.add(receiver, address, now)):
            return None
        self.receivers[node] = receiver
        self.boots[node] = boot
        return receiver

    def complete(self, node: str) -> None:
        """A node has the whole image."""
        receiver = self.receivers.get(node)
        if receiver is not None:
            self.transmitter.tell(lambda sender, now: sender.complete(receiver))

    def remove(self, node: str) -> None:
        """A node wants nothing more of this session."""
        receiver = self.receivers.pop(node, None)
        if receiver is not None:
            self.transmitter.tell(lambda sender, now: sender.remove(receiver))

    def start(self) -> None:
        """Send."""
        self.started = True
        self.transmitter.tell(lambda sender, now: sender.start())

    def stop(self) -> None:
        """End it, whoever still listens."""
        self.transmitter.tell(lambda sender, now: sender.end())

    def limit(self, rate: float) -> None:
        """Bytes per second at most."""
        self.transmitter.tell(lambda sender, now: sender.limit(rate))

    def info(self, ended: datetime | None = None) -> SessionInfo:
        """The session as the bus tells of it."""
        status = self.transmitter.status
        return SessionInfo(
            session=self.number,
            image=self.image.digest,
            size=self.image.geometry.size,
            sent=status.sent,
            receivers=len(self.boots),
            complete=status.complete,
            started=self.begun,
            ended=ended,
        )
