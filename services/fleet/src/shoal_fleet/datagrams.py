"""Log datagrams of stage 1 (UDP 6666): who may speak, and how much. Pure; the socket is in `log_socket`."""

from collections.abc import Callable
from dataclasses import dataclass

LINES_PER_SECOND = 100.0
BURST = 500.0
_LINE = 2000


@dataclass
class _Bucket:
    left: float
    at: float


class Gate:
    """Turns datagrams into lines of nodes. What comes from no node, or too fast, is dropped and counted."""

    def __init__(self, node_by_address: Callable[[str], str | None]) -> None:
        self._node_by_address = node_by_address
        self._buckets: dict[str, _Bucket] = {}

    def lines(self, data: bytes, address: str, now: float) -> tuple[str, list[str]] | None:
        """The node and its lines, or None if they are to be dropped. `now` is seconds of a steady clock."""
        node = self._node_by_address(address)
        if node is None:
            return None
        text = data.decode("utf-8", "replace")
        lines = [line[:_LINE] for line in text.replace("\r", "").split("\n") if line]
        # only nodes have buckets, so there are no more of them than of nodes
        bucket = self._buckets.setdefault(node, _Bucket(BURST, now))
        bucket.left = min(BURST, bucket.left + (now - bucket.at) * LINES_PER_SECOND)
        bucket.at = now
        if not lines or bucket.left < len(lines):
            return None
        bucket.left -= len(lines)
        return node, lines
