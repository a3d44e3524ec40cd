"""What a node trusts: one file, `ca.crt`, with the cluster's CA certificate and the keys that sign images.

The boot script pins it by its SHA-256 (`shoal.ca=`). It is PEM, with lines of our own that PEM readers skip, so that
`curl --cacert` takes it as it is:

    image-key UABC…
    -----BEGIN CERTIFICATE-----
"""

import hashlib
import re
import ssl
from dataclasses import dataclass

from shoal_identity.keys import is_public

LONGEST = 1 << 20
"""Bytes of a trust file at most."""
_IMAGE_KEY = re.compile(r"^image-key (\S+)$", re.MULTILINE)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?")


class BadTrust(ValueError):
    """This is no trust file, or not the one that was meant; the text says why."""


@dataclass(frozen=True)
class Trust:
    """`ca` is one or more certificates in PEM; `image_keys` are public keys (`U…`)."""

    ca: str
    image_keys: tuple[str, ...] = ()

    def dump(self) -> bytes:
        """The file."""
        lines = [f"image-key {key}\n" for key in self.image_keys]
        return "".join(["# What the nodes of this Shoal cluster trust.\n", *lines, self.ca]).encode()

    def client_context(self) -> ssl.SSLContext:
        """TLS to a server with a certificate of this CA, for the address that it is reached at."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.ca)
        return context


def parse(data: bytes, digest: str | None = None) -> Trust:
    """Read a trust file; with a digest (SHA-256, hex), only the file that has it. Raises BadTrust."""
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise BadTrust("ca.crt is not the one that the boot script names (shoal.ca=)")
    if len(data) > LONGEST:
        raise BadTrust(f"ca.crt is larger than {LONGEST} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadTrust("ca.crt is no text") from None
    certificates = _CERTIFICATE.findall(text)
    if not certificates:
        raise BadTrust("ca.crt holds no certificate")
    keys = tuple(_IMAGE_KEY.findall(text))
    for key in keys:
        if not is_public(key):
            raise BadTrust(f"ca.crt holds an image key that is none: {key[:80]!r}")
    trust = Trust("".join(f"{certificate.strip()}\n" for certificate in certificates), keys)
    try:
        trust.client_context()
    except (ssl.SSLError, ValueError) as error:
        raise BadTrust(f"ca.crt holds a certificate that cannot be read: {error}") from None
    return trust
