"""What we answer the server: permissions for a node, or why there are none. Pure."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from shoal_auth import jwt
from shoal_auth.question import Question
from shoal_bus.server_config import CLUSTER
from shoal_identity.keys import Key
from shoal_model import permissions

_SPREAD = 0.1
"""Nodes that came at once are not to renew at once."""
SUBSCRIPTIONS = 200
"""At most, as the payload: nats-server 2.15 does not hold those to it yet that a callout let in; `excess` does."""
_PAYLOAD = 8 << 20
_NANOSECONDS = 1_000_000_000
_UNLIMITED = -1


@dataclass(frozen=True)
class Seal:
    """Who signs answers, and after how many seconds a node is to prove its key again."""

    issuer: Key
    lifetime: int


def let_in(question: Question, name: str, node: str, seal: Seal, at: int, spread: float) -> bytes:
    """The node may be in, as `name`; `spread` in 0..1 draws out its renewal. `at` is in seconds since 1970."""
    user = {
        "sub": question.user_nkey,
        "aud": CLUSTER,
        "name": name,
        "exp": at + int(seal.lifetime * (1 + _SPREAD * spread)),
        "nats": _user(node),
    }
    return _response(question, {"jwt": jwt.encode(user, seal.issuer, at)}, seal, at)


def refuse(question: Question, reason: str, seal: Seal, at: int) -> bytes:
    """It may not; the server logs the reason and tells it to nobody."""
    return _response(question, {"error": reason}, seal, at)


def _response(question: Question, content: dict[str, str], seal: Seal, at: int) -> bytes:
    nats = {"type": "authorization_response", "version": 2, **content}
    return jwt.encode({"sub": question.user_nkey, "aud": question.server, "nats": nats}, seal.issuer, at).encode()


@lru_cache(maxsize=8192)
def _user(node: str) -> dict[str, Any]:
    granted = permissions.node(node)
    claims: dict[str, Any] = {
        "type": "user",
        "version": 2,
        "pub": {"allow": list(granted.publish)},
        "sub": {"allow": list(granted.subscribe)},
        "subs": SUBSCRIPTIONS,
        "data": _UNLIMITED,
        "payload": _PAYLOAD,
    }
    if granted.responses is not None:
        claims["resp"] = {"max": granted.responses.max, "ttl": granted.responses.expires * _NANOSECONDS}
    return claims
