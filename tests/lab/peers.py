"""Whoever comes to the bus of a head, byte by byte: its operator, a service, a node with no machine behind it."""

from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

from lab.head import Head
from lab.nats_peer import NatsPeer, Refused
from shoal_cli.identity.layout import Layout
from shoal_identity import trust
from shoal_identity.keys import Key

_NOT_LET_IN = "Authorization Violation"


def peer(head: Head, key: Key, token: str | None = None, **options: str) -> AbstractAsyncContextManager[NatsPeer]:
    """A connection, from wherever this thread is, that proves this key, and with a token a boot. Raises Refused.

    `options` stand in the place of what it says otherwise.
    """
    url, context = urlsplit(head.nats), trust.parse(Layout(head.state).trust.read_bytes()).client_context()
    assert url.hostname is not None
    assert url.port is not None
    shown = {} if token is None else {"auth_token": token}
    return NatsPeer.open(url.port, key, context, host=url.hostname, **shown, **options)


async def turned_away(head: Head, key: Key, token: str | None = None, **options: str) -> bool:
    """Whether the head lets nobody in who shows this. Raises Refused where something else is wrong."""
    try:
        async with peer(head, key, token, **options):
            return False
    except Refused as refused:
        if _NOT_LET_IN in str(refused):
            return True
        raise
