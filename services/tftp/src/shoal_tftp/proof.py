"""What a node proves its boot with, and knows its head by: words of its kernel command line. Pure."""

from dataclasses import dataclass
from datetime import datetime

from shoal_identity import tokens
from shoal_identity.keys import Key
from shoal_identity.tokens import BootToken
from shoal_model.records import Node


@dataclass(frozen=True)
class Issuer:
    """`key` signs boot tokens; `ca` is the SHA-256 (hex) of the trust file as nodes get it."""

    key: Key
    ca: str

    def words(self, node_id: str, node: Node, boot: str, at: datetime) -> tuple[str, str]:
        """`shoal.token=` for one boot, begun at `at`, and `shoal.ca=`. The token is a secret of this node and us."""
        not_after = int(at.timestamp()) + tokens.LIFETIME
        token = tokens.mint(BootToken(node_id, node.mac, node.address, boot, not_after), self.key)
        return f"shoal.token={token}", f"shoal.ca={self.ca}"
