"""A real nats-server that lets in whom Shoal lets in: keys and permissions as on a head, with TLS on request."""

from pathlib import Path

from lab.certificates import Authority
from lab.nats_server import NatsServer
from shoal_bus import secrecy, server_config
from shoal_bus.connection import Credentials
from shoal_bus.nats import NatsBus
from shoal_bus.server_config import PublicKeys, Tls
from shoal_identity.keys import Key, Role
from shoal_identity.trust import Trust
from shoal_model import permissions, subjects
from shoal_model.permissions import PRINCIPALS
from shoal_model.subjects import Service


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
        secrets = secrecy.write_secrets(self.keys)
        return PublicKeys(users, self.callout.public, self.system.public, self.issuer.public, secrets)

    def credentials(self, principal: str) -> Credentials:
        """What proves this service or the operator."""
        tls = self.trust.client_context() if self.trust is not None else None
        prefix, owned = subjects.inbox(principal), permissions.owned(principal)
        return Credentials(key=self.keys[principal], tls=tls, inbox_prefix=prefix, owns=owned)

    async def bus(self, principal: str) -> NatsBus:
        """Connected as this service, or as the operator; to be closed."""
        name, creates = f"shoal-{principal}", principal == Service.REGISTRY
        credentials = self.credentials(principal)
        return await NatsBus.connect([self.url], name=name, credentials=credentials, timeout=10, creates=creates)


def certified(directory: Path) -> tuple[Trust, Tls]:
    """A certificate for 127.0.0.1 in files, and whom to trust to believe it."""
    authority, files = Authority(), Tls(directory / "server.crt", directory / "server.key")
    authority.issue(files.certificate, files.key)
    return authority.trust, files
