"""What proves us to a NATS server. Standard library alone: nodes carry this."""

import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol


class Signer(Protocol):
    """An Ed25519 key pair, as `shoal_identity.keys.Key` is one."""

    @property
    def public(self) -> str:
        """The public key as NATS writes it: `U…`."""

    def sign(self, data: bytes) -> bytes:
        """64 bytes that prove we have the key."""


@dataclass(frozen=True)
class Credentials:
    """Any of these together; a server that asks for none takes us all the same.

    `tls` is what checks the certificate of a `tls://` server: without it we do not speak to one. `inbox_prefix` is what
    permissions let us listen on: it begins with `_INBOX.` if it is not `_INBOX` itself, as nobody answers elsewhere.
    `lifetime` is in seconds: after as many the server may end the connection, so a new one is made before. `owns` are
    the buckets that nobody else writes: with a `key`, they are written where nobody else knows.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    key: Signer | None = None
    tls: ssl.SSLContext | None = None
    inbox_prefix: str = "_INBOX"
    lifetime: float | None = None
    owns: Collection[str] = ()
