"""How large a body may be: a service reads what other services and operators send, and what a node sends only in small.

A node that somebody has taken over may send what it likes: a few thousand bytes that inflate to millions of items would
occupy a service for a second. Nodes carry this module.
"""

from dataclasses import dataclass

LARGEST = 8 << 20
"""Bytes of a body, inflated: what a head's server takes in a message too. 10,000 nodes' state are 4 MiB."""
MOST_ITEMS = 1_000_000
"""Items of a body: values, keys, and the arrays and maps themselves. 10,000 nodes' state are 310,000."""
LARGEST_OF_NODES = 256 << 10
"""Bytes of what a node says by itself: a batch of its log has 60,000 characters at most."""
_MOST_ITEMS_OF_NODES = 4096


@dataclass(frozen=True)
class Limits:
    """Bytes of a body, inflated; items in it; whether it may come deflated at all."""

    octets: int
    items: int
    deflated: bool = True


OURS = Limits(LARGEST, MOST_ITEMS)
_OF_NODES = Limits(LARGEST_OF_NODES, _MOST_ITEMS_OF_NODES, deflated=False)
_OF_COMMANDS = Limits(1 << 20, _MOST_ITEMS_OF_NODES)
"""What a command has put out is the one large thing that a node is asked for: 256 KiB on either stream."""


def of(subject: str) -> Limits:
    """What a message to this subject may hold: see `shoal_model.subjects` for who sends where."""
    match subject.split("."):
        case ["rpc", _, _, _, _] | ["node", _, "heartbeat"] | ["told", *_] | ["evt", "boot" | "node", *_]:
            return _OF_NODES
        case _:
            return OURS


def of_answer(subject: str) -> Limits:
    """What the answer to a request on this subject may hold."""
    return _OF_COMMANDS if subject.startswith("node.") else OURS
