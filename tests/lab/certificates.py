"""A certificate authority for tests, and certificates of heads by it: as `shoal up` makes them."""

from datetime import UTC, datetime
from pathlib import Path

from shoal_cli.identity import ca
from shoal_identity.trust import Trust


class Authority:
    """Whom a test trusts: `trust` is what its clients need."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        certificate, key = ca.new_authority(now)
        self._authority = ca.authority(certificate, key, now)
        self.trust = Trust(certificate.decode())

    def issue(self, certificate: Path, key: Path, address: str = "127.0.0.1") -> None:
        """Write a new pair for a head with this address; only its owner may read the key."""
        secret = ca.new_key()
        certificate.write_bytes(ca.issue(self._authority, secret, address, "head"))
        key.touch(mode=0o600)
        key.write_bytes(secret)
