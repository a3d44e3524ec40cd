"""The files of this head that boots are proven by: the key that signs boot tokens, and the cluster's trust file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from shoal_identity import trust
from shoal_identity.keys import Key, KeyProblem
from shoal_service.errors import Fatal
from shoal_tftp.proof import Issuer
from shoal_tftp.settings import TftpSettings

_log = structlog.stdlib.get_logger("shoal.tftp")


@dataclass(frozen=True)
class Trusted:
    """A trust file as it was read once: its bytes, and their SHA-256 in hex."""

    body: bytes
    digest: str


class TrustFile:
    """The cluster's `ca.crt`. Functions block."""

    def __init__(self, path: Path) -> None:
        """Raises Fatal if there is no trust file at this path."""
        self._path = path
        self._seen = _stamp(path)
        try:
            self._read = _trusted(path)
        except (OSError, trust.BadTrust) as error:
            raise Fatal(f"cannot use {path} (SHOAL_CA): {error}") from error

    def now(self) -> Trusted:
        """The file as it is; as it was before if it has become none."""
        stamp = _stamp(self._path)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._read = _trusted(self._path)
                _log.info("trust.changed", file=str(self._path), sha256=self._read.digest)
            except (OSError, trust.BadTrust) as error:
                _log.warning("trust.kept", file=str(self._path), sha256=self._read.digest, reason=str(error))
        return self._read


@dataclass(frozen=True)
class Identity:
    """What this head has of it; without a key, boots prove nothing."""

    trust: TrustFile | None = None
    key: Key | None = None

    @classmethod
    def of(cls, settings: TftpSettings) -> "Identity":
        """What the settings name. Blocks. Raises Fatal."""
        if settings.boot_key is None:
            return cls(TrustFile(settings.ca) if settings.ca is not None else None)
        if settings.ca is None:
            raise Fatal("SHOAL_BOOT_KEY without SHOAL_CA: a node with a token must know whom to give it to")
        try:
            return cls(TrustFile(settings.ca), Key.read(settings.boot_key))
        except KeyProblem as error:
            raise Fatal(f"{error} (SHOAL_BOOT_KEY)") from error

    def issuer(self, trusted: Trusted | None) -> Issuer | None:
        """Who signs the token of a boot that begins with this trust file; None: nobody."""
        return Issuer(self.key, trusted.digest) if self.key is not None and trusted is not None else None


def _trusted(path: Path) -> Trusted:
    with path.open("rb") as file:
        body = file.read(trust.LONGEST + 1)
    trust.parse(body)
    return Trusted(body, hashlib.sha256(body).hexdigest())


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from the one that was there before."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
