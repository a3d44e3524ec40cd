"""The boot token: what the boot file server says of a boot, signed with its boot key. Minting it writes nothing.

    base64url(body ‖ signature), body = version ‖ boot key ‖ not after ‖ boot id ‖ address ‖ node

It stands on the kernel command line, which x86 cuts at 2,047 bytes: so it is binary, and short.
"""

import base64
import binascii
import ipaddress
import struct
from collections.abc import Collection
from dataclasses import dataclass

from shoal_identity.keys import Key, raw_public, verify

LIFETIME = 1800
"""Seconds from the boot script to the connection: kernel and initrd of 3,000 nodes take 600 of them on gigabit."""
CONNECTION_LIFETIME = 3600
"""Seconds after which a node that was let in proves its key again."""
_VERSION = 1
_DOMAIN = b"shoal boot token\0"
_HEAD = struct.Struct("!B32sQ8s4sBB")
_SIGNATURE = 64
_LONGEST = 400


class BadToken(ValueError):
    """This token proves nothing; the text says why, for an operator."""


@dataclass(frozen=True)
class BootToken:
    """One boot of one node, at one address: `boot` is its boot id (16 hex digits), `not_after` seconds since 1970."""

    node: str
    mac: str
    address: str
    boot: str
    not_after: int


def mint(token: BootToken, key: Key) -> str:
    """The token as text: letters, digits, `-` and `_`."""
    mac, node = bytes.fromhex(token.mac.replace(":", "")), token.node.encode()
    head = _HEAD.pack(
        _VERSION,
        raw_public(key.public),
        token.not_after,
        bytes.fromhex(token.boot),
        ipaddress.IPv4Address(token.address).packed,
        len(mac),
        len(node),
    )
    body = head + mac + node
    return base64.urlsafe_b64encode(body + key.sign(_DOMAIN + body)).decode().rstrip("=")


def read(text: str, boot_keys: Collection[str]) -> BootToken:
    """The token in this text, which one of these keys (`U…`) has signed. Its time is for the caller to check.

    Raises BadToken.
    """
    token, signer, body, signature = _parsed(text)
    key = next((key for key in boot_keys if raw_public(key) == signer), None)
    if key is None:
        raise BadToken("the token is not signed by a boot file server of this cluster")
    if not verify(key, _DOMAIN + body, signature):
        raise BadToken("the token's signature is wrong: it was forged or damaged")
    return token


def claimed(text: str) -> BootToken | None:
    """What a token says, whether it is true or not; None if it says nothing."""
    try:
        return _parsed(text)[0]
    except BadToken:
        return None


def _parsed(text: str) -> tuple[BootToken, bytes, bytes, bytes]:
    if len(text) > _LONGEST:
        raise BadToken("this is no boot token: it is too long")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadToken("this is no boot token: it is not base64") from None
    body, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
    if len(body) < _HEAD.size or len(signature) != _SIGNATURE:
        raise BadToken("this is no boot token: it is too short")
    version, signer, not_after, boot, address, mac_length, node_length = _HEAD.unpack_from(body)
    rest = body[_HEAD.size :]
    if version != _VERSION:
        raise BadToken(f"this boot token has version {version}; this release reads {_VERSION}")
    if len(rest) != mac_length + node_length:
        raise BadToken("this boot token is damaged: its lengths contradict each other")
    try:
        node = rest[mac_length:].decode("ascii")
    except UnicodeDecodeError:
        raise BadToken("this boot token is damaged: its node is no name") from None
    mac = rest[:mac_length].hex(":")
    return BootToken(node, mac, str(ipaddress.IPv4Address(address)), boot.hex(), not_after), signer, body, signature
