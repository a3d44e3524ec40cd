"""Where the keys and certificates of a head are, below its state directory. Pure.

Everybody of `permissions.PRINCIPALS` has a key for the bus; nodes have theirs in their memory alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from shoal_identity.keys import Role
from shoal_model.permissions import PRINCIPALS
from shoal_model.subjects import Service

NATS = "nats"


class Seed(NamedTuple):
    """A key: whose it is, what it is called, what it is for."""

    owner: str
    name: str
    role: Role = Role.USER


class Pair(NamedTuple):
    """A certificate and its key: `keys/<owner>/<name>.crt` and `.key`."""

    owner: str
    name: str


CALLOUT = Seed(Service.AUTH, "callout")
SYSTEM = Seed(Service.AUTH, "system")
ISSUER = Seed(Service.AUTH, "issuer", Role.ACCOUNT)
BOOT = Seed(Service.TFTP, "boot")
IMAGE = Seed(Service.IMAGE_BUILDER, "image")
SEEDS = (*(Seed(principal, "bus") for principal in PRINCIPALS), CALLOUT, SYSTEM, ISSUER, BOOT, IMAGE)

BUS_DOOR = Pair(NATS, "server")
HTTP_DOORS = (Pair(Service.MCASTD, "tls"), Pair(Service.EXECD_CONFIG, "tls"))
PAIRS = (BUS_DOOR, *HTTP_DOORS)


@dataclass(frozen=True)
class Layout:
    """The files of one head's identity; `state` is absolute."""

    state: Path

    @property
    def trust(self) -> Path:
        """What nodes, services and operators trust: no secret."""
        return self.state / "ca.crt"

    @property
    def keys(self) -> Path:
        """Everything that is secret, a directory for each owner."""
        return self.state / "keys"

    @property
    def ca(self) -> Path:
        """The CA: `ca.pem` and `ca.key`."""
        return self.keys / "ca"

    def seed(self, seed: Seed) -> Path:
        """The file of a key."""
        return self.keys / seed.owner / f"{seed.name}.seed"

    def bus_seed(self, principal: str) -> Path:
        """The file of the key that this user of the bus proves itself with."""
        return self.seed(Seed(principal, "bus"))

    def certificate(self, pair: Pair) -> Path:
        """The file of a certificate, PEM."""
        return self.keys / pair.owner / f"{pair.name}.crt"

    def certificate_key(self, pair: Pair) -> Path:
        """The file of a certificate's key, PEM."""
        return self.keys / pair.owner / f"{pair.name}.key"

    def secrets(self) -> list[Path]:
        """Every file that only its owner may read, whether it is there or not."""
        return [
            self.ca / "ca.key",
            *(self.certificate_key(pair) for pair in PAIRS),
            *(self.seed(seed) for seed in SEEDS),
        ]


@dataclass(frozen=True)
class Identity:
    """Where a head's keys are, and what is known of them: `public` is the public half of each. The bus server is told
    `write_secrets` too, by bucket, and nobody else (see `shoal_bus.secrecy`).
    """

    layout: Layout
    public: Mapping[Seed, str]
    write_secrets: Mapping[str, str] = field(repr=False)
