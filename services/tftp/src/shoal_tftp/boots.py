"""Which boot a node is in. Pure: time is an argument, in seconds."""

from collections.abc import Callable
from dataclasses import dataclass, field

from shoal_model.subjects import Stage

_SAME = 10.0
"""A node that asks for its script again within this many seconds is still in the same boot."""
_STILL_REFUSED = 180.0
"""A refused machine asks again and again; as long as it is for the same reason, that is one boot."""


@dataclass
class _Boot:
    id: str
    refused: str | None
    asked: float
    told: set[tuple[Stage, str | None]] = field(default_factory=set)
    left: bool = False


class Boots:
    """The latest boot of each node.

    A size probe, a HEAD and a retry ask for the same script, and must not look like so many boots: the id stays for a
    few seconds, unless the kernel was fetched meanwhile.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._boots: dict[str, _Boot] = {}

    def ask(self, node: str, now: float, refused: str | None = None) -> str:
        """The boot id for a script that is rendered now; `refused` is the reason, if the node cannot boot."""
        boot = self._boots.get(node)
        lasts = _SAME if refused is None else _STILL_REFUSED
        if boot is None or boot.left or boot.refused != refused or now - boot.asked > lasts:
            boot = self._boots[node] = _Boot(self._new_id(), refused, now)
        boot.asked = now
        return boot.id

    def current(self, node: str) -> str | None:
        """The id of the boot a node is in, if this server rendered it."""
        boot = self._boots.get(node)
        return None if boot is None else boot.id

    def news(self, node: str, stage: Stage, reason: str | None = None) -> bool:
        """Note a stage of the node's boot; whether it is the first with this reason, and so worth an event."""
        boot = self._boots.get(node)
        if boot is None:
            return True
        if stage is Stage.LOADER_KERNEL and reason is None:
            boot.left = True
        if (stage, reason) in boot.told:
            return False
        boot.told.add((stage, reason))
        return True
