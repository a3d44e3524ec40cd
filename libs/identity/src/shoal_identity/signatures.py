"""Signed image manifests: the bytes of a manifest, and who says that they are right."""

from collections.abc import Collection

from shoal_identity.keys import Key, verify

_DOMAIN = b"shoal image manifest\0"


class Unsigned(ValueError):
    """Nobody whom we trust stands behind this manifest; the text says why."""


def sign(body: bytes, key: Key) -> bytes:
    """The signature over a manifest's bytes."""
    return key.sign(_DOMAIN + body)


def check(body: bytes, key: str, signature: bytes, trusted: Collection[str]) -> None:
    """Raise Unsigned unless `key` is one of the trusted ones and has signed these bytes."""
    if not key or not signature:
        raise Unsigned("the manifest is not signed: build the image again")
    if key not in trusted:
        raise Unsigned(f"the manifest is signed with {key[:12]}…, which is no image key of this cluster")
    if not verify(key, _DOMAIN + body, signature):
        raise Unsigned("the signature of the manifest is wrong: it was forged or damaged")
