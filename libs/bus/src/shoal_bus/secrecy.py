"""What only who has a certain key can name: where a service writes its buckets, and what its events are called.

Ed25519 signs the same bytes in the same way each time (RFC 8032, 5.1.6), so the replicas of a service agree without a
word, and nobody without the key can guess. What the server wants signed (see `client`) never has the form of these.
"""

import hashlib
from collections.abc import Mapping

from shoal_bus.credentials import Signer
from shoal_model import permissions

_DIGITS = 40


def write_secret(key: Signer, bucket: str) -> str:
    """The token in the subject where the bucket's one writer publishes: 40 hex digits. See `streams.bucket`."""
    return _named(key, b"shoal write subject", bucket)


def write_secrets(keys: Mapping[str, Signer]) -> dict[str, str]:
    """Those of every bucket, made from the keys of all principals."""
    return {bucket: write_secret(keys[owner], bucket) for bucket, owner in permissions.OWNERS.items()}


def event_id(key: Signer, identity: str) -> str:
    """What an event is called in the stream. The stream drops what is called as another event was, whatever its
    subject: with a name that can be guessed, a node could say something under it first.
    """
    return _named(key, b"shoal event", identity)


def _named(key: Signer, purpose: bytes, what: str) -> str:
    return hashlib.sha256(key.sign(purpose + b"\0" + what.encode())).hexdigest()[:_DIGITS]
