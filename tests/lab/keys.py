"""OpenSSH public keys for tests: right in form, and nobody has the other half."""

import base64


def public_key(comment: str, *, octets: int = 32) -> str:
    """A line of a .pub file: Ed25519 as it is, or as RSA with a modulus of so many octets."""
    kind, parts = b"ssh-ed25519", [bytes(32)]
    if octets != 32:
        kind, parts = b"ssh-rsa", [b"\x01\x00\x01", b"\x00" + b"\xaa" * octets]
    row = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, *parts))
    return f"{kind.decode()} {base64.b64encode(row).decode()} {comment}"
