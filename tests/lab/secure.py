"""A real nats-server that lets in whom Shoal lets in: keys and permissions as on a head, with TLS on request."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.nats_server import NatsServer
from shoal_bus import server_config
from shoal_bus.connection import Credentials
from shoal_bus.nats import NatsBus
from shoal_bus.server_config import PublicKeys, Tls
from shoal_identity.keys import Key, Role
from shoal_identity.trust import Trust
from shoal_model import subjects
from shoal_model.permissions import PRINCIPALS


class SecureServer(NatsServer):
    """A `NatsServer` with accounts: `keys` are those of the services and of the operator; `callout`, `system` and
    `issuer` are what auth has besides. With `tls`, `trust` is what a client needs.
    """

    def __init__(self, directory: Path, *, tls: bool = False, limits: str = "", host: str = "127.0.0.1") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.keys = {principal: Key.new() for principal in map(str, PRINCIPALS)}
        self.callout, self.system, self.issuer = Key.new(), Key.new(), Key.new(Role.ACCOUNT)
        self.trust: Trust | None = None
        files = None
        if tls:
            self.trust, files = certified(directory)
        config = server_config.identity(self.public, files)
        super().__init__(directory, config=config, limits=limits, host=host)

    @property
    def url(self) -> str:
        return super().url if self.trust is None else f"tls://127.0.0.1:{self.port}"

    @property
    def public(self) -> PublicKeys:
        users = {principal: key.public for principal, key in self.keys.items()}
        return PublicKeys(users, self.callout.public, self.system.public, self.issuer.public)

    def credentials(self, principal: str) -> Credentials:
        """What proves this service or the operator."""
        tls = self.trust.client_context() if self.trust is not None else None
        return Credentials(key=self.keys[principal], tls=tls, inbox_prefix=subjects.inbox(principal))

    async def bus(self, principal: str) -> NatsBus:
        """Connected as this service, or as the operator; to be closed."""
        return await NatsBus.connect(
            [self.url], name=f"shoal-{principal}", credentials=self.credentials(principal), timeout=10
        )


def certified(directory: Path) -> tuple[Trust, Tls]:
    """A CA, and a certificate of it for 127.0.0.1 in files."""
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            issuer_name=name,
            subject_name=name if key is authority else x509.Name([]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(days=1),
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(authority, hashes.SHA256())

    ca = certificate(authority, x509.BasicConstraints(ca=True, path_length=0))
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    own = certificate(server, addresses)
    files = Tls(directory / "server.crt", directory / "server.key")
    files.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))
    files.key.touch(0o600)
    files.key.write_bytes(
        server.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Trust(ca.public_bytes(serialization.Encoding.PEM).decode()), files
