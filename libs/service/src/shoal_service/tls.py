"""TLS at the doors of a head, with a certificate that may be renewed on disk while a service runs."""

import logging
import os
import ssl
import stat
from pathlib import Path
from typing import Literal

from shoal_service.errors import Fatal
from shoal_service.settings import ListeningSettings

log = logging.getLogger("shoal.tls")

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def scheme(settings: ListeningSettings) -> Literal["http", "https"]:
    """How the URLs of a service with these settings begin."""
    return "http" if settings.tls_cert is None else "https"


def server_context(settings: ListeningSettings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with `tls_cert` and `tls_key`, as they are on disk when a client connects; None without them.

    Raises Fatal if they cannot be used, or others may read the key. Later on, what cannot be used is logged, and the
    certificate of before stays.
    """
    match settings.tls_cert, settings.tls_key:
        case None, None:
            return None
        case Path() as certificate, Path() as key:
            return _Renewed(ssl.PROTOCOL_TLS_SERVER, certificate, key)
        case _:
            raise Fatal("SHOAL_TLS_CERT and SHOAL_TLS_KEY go together: set both, or neither for HTTP without TLS")


class _Renewed(ssl.SSLContext):
    """Looks at the files whenever a connection begins (asyncio calls `wrap_bio` then). Each pair gets a context of its
    own: one that half of a pair was loaded into would serve nobody.
    """

    def __init__(self, _protocol: int, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self._seen = self._stamp()
        self._inner = _context(certificate, key)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As every context's."""
        self._renew()
        return self._inner.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _renew(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp  # of a pair whose other half is yet to come, the next change tells
        try:
            self._inner = _context(self._certificate, self._key)
        except Fatal as error:
            log.warning("tls.not_renewed reason=%s", error)
        else:
            log.info("tls.renewed certificate=%s", self._certificate)

    def _stamp(self) -> list[tuple[int, int, int, int] | None]:
        """What tells a file from the one that was there before."""
        return [_status(self._certificate), _status(self._key)]


def _status(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's context with this pair. Raises Fatal."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _check_readers(key)
    try:
        context.load_cert_chain(certificate, key, password=_encrypted)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            told = f"the certificate {certificate} is for another key than {key}: SHOAL_TLS_CERT, SHOAL_TLS_KEY"
        else:
            told = f"the certificate {certificate} or the key {key} is no such thing in PEM: {error.reason or error}"
        raise Fatal(told) from None
    except OSError as error:
        raise Fatal(f"cannot read the certificate {certificate} (SHOAL_TLS_CERT): {error.strerror}") from None
    return context


def _check_readers(key: Path) -> None:
    try:
        with key.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise Fatal(f"cannot read the key {key} (SHOAL_TLS_KEY): {error.strerror}") from None
    if mode & _OTHERS:
        raise Fatal(f"the key {key} may be read by others: `chmod 600 {key}`, and consider making a new one")


def _encrypted() -> str:
    raise Fatal("the key of SHOAL_TLS_KEY asks for a passphrase, and nobody is there to type it: give one without")
