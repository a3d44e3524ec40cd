"""What proves this node to the head, and the head to this node. It lives in memory, and no longer than the boot."""

import ssl
from dataclasses import dataclass

from shoal_identity.keys import Key
from shoal_identity.trust import Trust


@dataclass(frozen=True)
class Identity:
    """`key` was born in stage 1 and never leaves the node; `trust` is the cluster's `ca.crt`."""

    key: Key
    trust: Trust

    @property
    def tls(self) -> ssl.SSLContext:
        """TLS to a server of this cluster."""
        return self.trust.client_context()
