"""When a session starts: at once when everybody who boots this image now is there, and never later than a bound. Pure.

Nobody is waited for by count. Who comes later is served by the running session.
"""

from dataclasses import dataclass

from shoal_model.messages import BootEvent, Status
from shoal_model.subjects import Stage

LEAST = 1.0
"""Seconds after the first join in which others may come of whose boot nothing was heard."""
_FORGET = 180.0

_ON_THE_WAY = frozenset(
    {
        Stage.LOADER_CONFIG,
        Stage.LOADER_KERNEL,
        Stage.LOADER_INITRD,
        Stage.STAGE1_START,
        Stage.STAGE1_NETWORK,
        Stage.STAGE1_BUS,
    }
)
_BEFORE = frozenset({Stage.DHCP_OFFER, Stage.DHCP_ACK})


@dataclass(frozen=True)
class Gathering:
    """What is known of a session that has not started. Times are of one monotonic clock, in seconds.

    `joined` receivers have asked for the image, `ready` of them have heard a beacon; `awaited` nodes boot the same
    image and have not asked yet.
    """

    since: float
    joined: int
    ready: int
    awaited: int


def may_start(gathering: Gathering, bound: float, now: float) -> bool:
    """Whether to start sending: somebody hears us, and either everybody does or the time is up."""
    waited = now - gathering.since
    if not gathering.ready or waited < LEAST:
        return False
    return waited >= bound or (gathering.ready >= gathering.joined and not gathering.awaited)


class Booting:
    """The nodes that are between their loader and their join, and the image each of them boots."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[str, float]] = {}

    def hear(self, event: BootEvent, image: str | None, now: float) -> None:
        """A stage of a node's boot; `image` is the digest of what it boots, None if that is not known."""
        if event.stage in _BEFORE:
            return
        by_multicast = event.stage == Stage.IMAGE_SOURCE and event.details.get("method") == "multicast"
        if event.status != Status.FAILED and image is not None and (event.stage in _ON_THE_WAY or by_multicast):
            self._nodes[event.node] = image, now
        else:
            self._nodes.pop(event.node, None)

    def forget(self, node: str) -> None:
        """It joined, left, or was awaited in vain."""
        self._nodes.pop(node, None)

    def awaited(self, image: str, now: float) -> set[str]:
        """The nodes that will ask for this image soon."""
        self._nodes = {node: seen for node, seen in self._nodes.items() if now - seen[1] < _FORGET}
        return {node for node, (wanted, _) in self._nodes.items() if wanted == image}
