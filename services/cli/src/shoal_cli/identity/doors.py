"""The certificates of the doors of a head: kept as long as clients take them, issued anew when they would not."""

from dataclasses import dataclass
from datetime import datetime

from shoal_cli.identity import ca, files
from shoal_cli.identity.layout import Layout, Pair
from shoal_cli.identity.proof import objection
from shoal_cli.up.plan import CannotStart
from shoal_identity.trust import Trust


@dataclass(frozen=True)
class Doors:
    """Who comes to them trusts `trusted`, and connects to `address`. Without an `authority`, certificates are brought
    by hand.
    """

    layout: Layout
    authority: ca.Authority | None
    trusted: Trust
    address: str
    host: str

    def certify(self, pair: Pair, now: datetime) -> None:
        """See to it that a door has a certificate that clients take. Raises CannotStart, OSError."""
        certificate, key = self.layout.certificate(pair), self.layout.certificate_key(pair)
        there = certificate.exists() and key.exists()
        wrong = self._objection(pair) if there else "it is missing, or its key is"
        if self.authority is None:
            if wrong is not None:
                raise CannotStart(
                    f"{certificate}: nobody would take this certificate at {self.address}: {wrong}. Put one there that "
                    f"fits, with {key}, or the key of the CA into {self.layout.ca / 'ca.key'}"
                )
        elif wrong is not None or ca.ends_soon(certificate.read_bytes(), self.authority, now):
            self._issue(pair, self.authority)

    def _issue(self, pair: Pair, authority: ca.Authority) -> None:
        certificate, key = self.layout.certificate(pair), self.layout.certificate_key(pair)
        if not key.exists():
            files.place(key, ca.new_key(), 0o600)
        try:
            files.place(certificate, ca.issue(authority, key.read_bytes(), self.address, self.host), 0o644)
        except ca.BadCa as error:
            raise CannotStart(f"{key}: {error}. Remove it: a new one is made") from error
        wrong = self._objection(pair)
        if wrong is not None:
            raise CannotStart(f"{self.layout.ca}: nobody would take what this CA signs: {wrong}")

    def _objection(self, pair: Pair) -> str | None:
        return objection(self.layout.certificate(pair), self.layout.certificate_key(pair), self.trusted, self.address)
