"""Whether a certificate proves a door to those who come to it: tried, without a socket, as they will do it."""

import ssl
from pathlib import Path

from shoal_identity.trust import Trust

_ROUNDS = 10  # of messages, each way; TLS 1.3 needs two


def objection(certificate: Path, key: Path, trust: Trust, address: str) -> str | None:
    """Why a client that trusts this, and connects to this address, would turn away; None if it would not."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server_context.load_cert_chain(certificate, key, password=lambda: "")
        server = server_context.wrap_bio(there, back, server_side=True)
        client = trust.client_context().wrap_bio(back, there, server_hostname=address)
        for _ in range(_ROUNDS):
            if all([_finished(client), _finished(server)]):
                return None
    except (OSError, ValueError) as error:  # SSLError is an OSError
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    return "the handshake does not end"


def _finished(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
