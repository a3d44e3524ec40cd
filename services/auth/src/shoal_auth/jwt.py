"""The server's question and our answer: JWTs whose signature is that of an nkey (`ed25519-nkey`). Pure.

github.com/nats-io/jwt: header and claims are JSON in base64url, the signature is over both as they are written.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from shoal_identity.keys import Key, verify

_LONGEST = 64 << 10
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


class BadJwt(ValueError):
    """This is no JWT of whom it should be; the text says why."""


def encode(claims: Mapping[str, Any], key: Key, at: int) -> str:
    """These claims, issued by `key` at a time (seconds since 1970)."""
    body = f"{_part(_HEADER)}.{_part({**claims, 'iss': key.public, 'iat': at})}"
    return f"{body}.{_text(key.sign(body.encode()))}"


def decode(text: bytes, role: str) -> dict[str, Any]:
    """The claims, once their issuer has proven to be what a key of this kind (`N`: a server) is. Raises BadJwt."""
    if len(text) > _LONGEST:
        raise BadJwt(f"it has {len(text)} bytes; {_LONGEST} are the most")
    body, _, signature = text.rpartition(b".")
    try:
        header, claims = (json.loads(_raw(part)) for part in body.split(b"."))
        signed = _raw(signature)
    except (ValueError, RecursionError) as error:
        raise BadJwt(f"it cannot be read: {error}") from None
    if not isinstance(header, dict) or not isinstance(claims, dict) or header.get("alg") != _HEADER["alg"]:
        raise BadJwt("it is not signed as NATS signs")
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not issuer.startswith(role):
        raise BadJwt(f"its issuer has no key of kind {role}")
    if not verify(issuer, body, signed):
        raise BadJwt("its signature is wrong")
    return claims


def _part(data: Mapping[str, Any]) -> str:
    return _text(json.dumps(data, separators=(",", ":")).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _raw(part: bytes) -> bytes:
    try:
        return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise BadJwt(str(error)) from None
