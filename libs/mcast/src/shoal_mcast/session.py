"""What a node is told when it joins, and what comes of it: plain values for the node's side."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal_mcast.geometry import Geometry


@dataclass(frozen=True)
class Join:
    """mcastd's answer to a join (`JoinReply` on the bus). Sizes in bytes."""

    session: int
    source: str
    group: str
    port: int
    control_port: int
    receiver: int
    size: int
    symbol_size: int
    block_symbols: int

    @classmethod
    def from_map(cls, reply: Mapping[str, Any]) -> "Join":
        """Check the map that came over the bus. Raises ValueError naming the field that is wrong."""
        join = cls(
            session=_whole(reply, "session", 0xFFFF_FFFF),
            source=_address(reply, "source", multicast=False),
            group=_address(reply, "group", multicast=True),
            port=_whole(reply, "port", 0xFFFF),
            control_port=_whole(reply, "control_port", 0xFFFF),
            receiver=_whole(reply, "receiver", 0xFFFF_FFFF),
            size=_whole(reply, "size", 1 << 48),
            symbol_size=_whole(reply, "symbol_size", 0xFFFF),
            block_symbols=_whole(reply, "block_symbols", 0xFFFF),
        )
        if not join.port or not join.control_port:
            raise ValueError("the answer to the join names port 0")
        join.geometry()
        return join

    def geometry(self) -> Geometry:
        """The image's geometry. ValueError if it is impossible."""
        return Geometry(self.size, self.symbol_size, self.block_symbols)


@dataclass(frozen=True)
class Outcome:
    """How an attempt to get the image ended. Whatever was verified on the way stays verified in the ImageFile.

    `reason` says, for people, why it is not complete; None if it is. `received` counts the bytes of image content that
    this attempt brought, `seconds` how long it took.
    """

    complete: bool
    reason: str | None
    received: int
    seconds: float


def _whole(reply: Mapping[str, Any], field: str, most: int) -> int:
    value = reply.get(field)
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"the answer to the join: {field} is {value!r}, expected a whole number up to {most}")
    return value


def _address(reply: Mapping[str, Any], field: str, *, multicast: bool) -> str:
    value = reply.get(field)
    try:
        address = ipaddress.IPv4Address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"the answer to the join: {field} is {value!r}, expected an IPv4 address") from None
    if address.is_multicast is not multicast:
        raise ValueError(f"the answer to the join: {field} {value} is {'no' if multicast else 'a'} multicast address")
    return str(address)
