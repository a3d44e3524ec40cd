"""Connections that are more than a node needs: whoever holds its key could fill a server's memory with them. Pure.

nats-server 2.15 heeds no limits in the JWT of a callout. Its own `max_subscriptions` holds, and is wider: it is for
services, too.
"""

from collections import defaultdict
from collections.abc import Iterable

from shoal_auth.answer import SUBSCRIPTIONS
from shoal_auth.connections import Peer

CONNECTIONS = 4
"""Of one node: its agent, the one before it, an image that comes, a reboot that is announced."""


def excess(peers: Iterable[Peer]) -> list[Peer]:
    """Those with too many subscriptions, and of the others of each node those that came after the first four."""
    of_nodes: dict[str, list[Peer]] = defaultdict(list)
    over: list[Peer] = []
    for peer in sorted(peers, key=lambda one: (one.since, one.id)):
        if peer.subscriptions > SUBSCRIPTIONS or len(of_nodes[peer.node]) >= CONNECTIONS:
            over.append(peer)
        else:
            of_nodes[peer.node].append(peer)
    return over
