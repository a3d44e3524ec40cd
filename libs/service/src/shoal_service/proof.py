"""What proves a service to the bus, and what it trusts: from the files that its settings name."""

from dataclasses import dataclass

from shoal_bus.credentials import Credentials
from shoal_bus.servers import without_secrets
from shoal_identity import trust
from shoal_identity.keys import Key, KeyProblem
from shoal_identity.trust import BadTrust, Trust
from shoal_model import permissions, subjects
from shoal_model.subjects import Service
from shoal_service.errors import Fatal
from shoal_service.settings import ServiceSettings


@dataclass(frozen=True)
class Proof:
    """`credentials` are for the bus; `trust` is None where no `ca.crt` is named."""

    credentials: Credentials
    trust: Trust | None


def read(service: Service, settings: ServiceSettings) -> Proof:
    """Read the key and `ca.crt`, if there are to be any. Raises Fatal, naming the setting and what is wrong."""
    key, trusted = _key(settings), _trust(settings)
    encrypted = [without_secrets(server) for server in settings.nats if server.startswith("tls://")]
    if trusted is None and encrypted:
        raise Fatal(
            f"SHOAL_NATS (--nats) names {encrypted[0]}: set SHOAL_CA to the ca.crt to check its certificate with"
        )
    tls = None if trusted is None else trusted.client_context()
    owned = permissions.owned(service)
    return Proof(Credentials(key=key, tls=tls, inbox_prefix=subjects.inbox(service), owns=owned), trusted)


def _key(settings: ServiceSettings) -> Key | None:
    if settings.key is None:
        return None
    try:
        key = Key.read(settings.key)
    except KeyProblem as error:
        raise Fatal(f"SHOAL_KEY (--key): {error}") from None
    if not key.public.startswith("U"):
        raise Fatal(f"SHOAL_KEY (--key): {settings.key} is no user's key: expected a seed that begins with SU")
    return key


def _trust(settings: ServiceSettings) -> Trust | None:
    if settings.ca is None:
        return None
    try:
        with settings.ca.open("rb") as file:
            data = file.read(trust.LONGEST + 1)
        return trust.parse(data)
    except OSError as error:
        raise Fatal(f"SHOAL_CA (--ca): cannot read {settings.ca}: {error.strerror}") from None
    except BadTrust as error:
        raise Fatal(f"SHOAL_CA (--ca): {settings.ca}: {error}") from None
