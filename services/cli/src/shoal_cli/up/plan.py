"""What one head consists of, as data: the bus server's configuration, the programs, when they start again. Pure."""

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal_bus import server_config
from shoal_bus.server_config import PublicKeys, Tls
from shoal_cli.identity import layout
from shoal_cli.identity.layout import Identity, Layout, Seed
from shoal_model import permissions, ports
from shoal_model.subjects import Service

NATS_VERSION = (2, 12)
"""The oldest server with atomic batches, on which every change of records rests."""
NATS_MONITOR = "127.0.0.1:8222"
_MAX_PAYLOAD = 8 << 20
_MAX_CONNECTIONS = 65536
_MAX_SUBSCRIPTIONS = 2000
"""Of one connection; services have some dozens."""
_PING = '"30s"'
"""A connection that does not answer three of these is gone: a node that was switched off is to make room for itself."""
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


class CannotStart(Exception):
    """This head cannot run as it was asked to; the message says why and what to do."""


@dataclass(frozen=True)
class Program:
    """A child of the supervisor. `health` is a URL that answers 200 once the program does its work, `alive` one that
    answers 200 as long as it is well: the path of either may be a secret. `restart_helps` says that one which stays
    unwell is to be restarted.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    health: str = field(repr=False)
    alive: str = field(default="", repr=False)
    restart_helps: bool = False


@dataclass(frozen=True)
class Head:
    """Where a head lives: the NIC that nodes boot from, the address on it, the directory for everything kept."""

    interface: str
    address: str
    state: Path

    @property
    def nats(self) -> str:
        """The bus, as everybody reaches it."""
        return f"tls://{self.address}:{ports.NATS}"


def nats_config(head: Head, host: str, identity: Identity, monitor: str) -> str:
    """The bus server's configuration, which nobody else may read: it names the subjects where services write, and what
    its monitor tells is told under the path `/<monitor>` alone, for that tells these subjects, too. Of keys it holds
    public ones; the server's own is named.

    It listens on the boot network's address alone, so nothing outside that network reaches it. Every write is synced
    before it is acknowledged: an acknowledged change outlives a power cut. A message may have 8 MiB, for documents of
    10,000 nodes; nodes' options stay far below.
    """
    quoted = json.dumps
    own = "\n".join(
        [
            "# Written by `shoal up` at each start; changes are lost.",
            f"server_name: {quoted(re.sub(r'[^A-Za-z0-9-]', '-', f'shoal-{host}'))}",
            f"listen: {quoted(f'{head.address}:{ports.NATS}')}",
            f"http: {quoted(NATS_MONITOR)}",
            f"http_base_path: {quoted(f'/{monitor}')}",
            f"max_payload: {_MAX_PAYLOAD}",
            f"max_pending: {8 * _MAX_PAYLOAD}",
            f"max_connections: {_MAX_CONNECTIONS}",
            f"max_subscriptions: {_MAX_SUBSCRIPTIONS}",
            f"ping_interval: {_PING}",
            "lame_duck_duration: 30s",
            "lame_duck_grace_period: 1s",
            "jetstream {",
            f"  store_dir: {quoted(str(head.state / 'nats'))}",
            "  sync_interval: always",
            "}",
            "",
        ]
    )
    return own + server_config.identity(_public_keys(identity), _bus_tls(identity.layout))


def nats_program(server: Path, config: Path, env: Mapping[str, str], monitor: str) -> Program:
    """The bus server as a program; `monitor` is that of `nats_config`."""
    argv = (str(server), "--config", str(config))
    alive = f"http://{NATS_MONITOR}/{monitor}/healthz"
    # Streams that are broken are no reason not to start: what is wrong with them is told afterwards.
    return Program("nats-server", argv, env, f"{alive}?js-server-only=true", alive=alive, restart_helps=True)


def services(head: Head, scripts: Path, env: Mapping[str, str], identity: Identity) -> list[Program]:
    """One of each service, and auth twice. What the operator set as SHOAL_* goes on to them; what a head decides is put
    on top: of the identity, each is told of its own part alone.

    Nodes are answered at the boot network's address alone, unless the operator set another SHOAL_LISTEN.
    """
    result = []
    for name, service, port in metrics():
        pages = f"127.0.0.1:{port}"
        own = {
            "SHOAL_NATS": head.nats,
            "SHOAL_STATE": str(head.state),
            "SHOAL_INTERFACE": head.interface,
            "SHOAL_LISTEN": listen_at(head, env),
            "SHOAL_METRICS": pages,
            "PYTHONUNBUFFERED": "1",
            **_part_of(service, identity),
        }
        argv = (str(scripts / f"shoal-{service}"),)
        health, alive = f"http://{pages}/readyz", f"http://{pages}/healthz"
        result.append(Program(name, argv, {**env, **own}, health, alive))
    return result


def metrics() -> list[tuple[str, Service, int]]:
    """The services of a head by the names of their programs, and the ports of their metrics and health."""
    once = [(str(service), service, ports.METRICS[service]) for service in Service]
    return [*once, (f"{Service.AUTH}-2", Service.AUTH, ports.SECOND_AUTH_METRICS)]


def _part_of(service: Service, identity: Identity) -> dict[str, str]:
    """What a service is told of the identity: paths and public keys."""
    files = identity.layout
    told: dict[str, str | Path] = {"SHOAL_KEY": files.bus_seed(service), "SHOAL_CA": files.trust}
    for pair in layout.HTTP_DOORS:
        if pair.owner == service:
            told |= {"SHOAL_TLS_CERT": files.certificate(pair), "SHOAL_TLS_KEY": files.certificate_key(pair)}
    match service:
        case Service.TFTP:
            told["SHOAL_BOOT_KEY"] = files.seed(layout.BOOT)
        case Service.IMAGE_BUILDER:
            told["SHOAL_IMAGE_KEY"] = files.seed(layout.IMAGE)
        case Service.AUTH:
            told |= {
                "SHOAL_CALLOUT_KEY": files.seed(layout.CALLOUT),
                "SHOAL_SYSTEM_KEY": files.seed(layout.SYSTEM),
                "SHOAL_ISSUER_KEY": files.seed(layout.ISSUER),
                "SHOAL_BOOT_KEYS": identity.public[layout.BOOT],
            }
    return {name: str(value) for name, value in told.items()}


def _public_keys(identity: Identity) -> PublicKeys:
    public = identity.public
    users = {principal: public[Seed(principal, "bus")] for principal in permissions.PRINCIPALS}
    own = public[layout.CALLOUT], public[layout.SYSTEM], public[layout.ISSUER]
    return PublicKeys(users, *own, identity.write_secrets)


def _bus_tls(files: Layout) -> Tls:
    return Tls(files.certificate(layout.BUS_DOOR), files.certificate_key(layout.BUS_DOOR))


def listen_at(head: Head, env: Mapping[str, str]) -> str:
    """Where nodes are answered."""
    return env.get("SHOAL_LISTEN") or head.address


def backoff(failures: int, dice: float) -> float:
    """Seconds before start number `failures` + 1: doubling, capped, and spread by `dice` (0 to 1) so that programs
    which fell together do not rise together.
    """
    longest = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + dice / 2)


def ending(code: int) -> str:
    """A child's return code in words: `exit status 1`, `signal 9`."""
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def version_of(answer: str) -> tuple[int, int] | None:
    """Major and minor version in `nats-server: v2.15.1`; None if there is none."""
    found = re.search(r"v(\d+)\.(\d+)", answer)
    return (int(found[1]), int(found[2])) if found else None


def address_for(interface: str, addresses: Sequence[str], document: Mapping[str, Any] | None) -> str:
    """The head's address on its boot NIC: the one the configuration names, else the NIC's first.

    Raises CannotStart if the NIC has none, or not that one.
    """
    if not addresses:
        raise CannotStart(
            f"interface {interface} has no IPv4 address: give it the head's address in the boot network, "
            f"for instance `ip address add 10.77.0.1/24 dev {interface}`, and bring it up"
        )
    wanted = boot_head(document) if document is not None else None
    if wanted is None:
        if ipaddress.IPv4Address(addresses[0]).is_loopback:
            raise CannotStart(f"no node can reach {addresses[0]}: {interface} is a loopback, name the NIC of the nodes")
        return addresses[0]
    if wanted not in addresses:
        raise CannotStart(
            f"the configuration says that the head's address in the boot network is {wanted}, but interface "
            f"{interface} has {', '.join(addresses)}: change one of them"
        )
    return wanted


def elsewhere(head: Head, networks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What to tell if the recorded address of the head is not the one it runs at; None if it is, or there is none."""
    recorded = boot_head({"networks": networks})
    if recorded is None or recorded == head.address:
        return None
    name = next(name for name, network in networks.items() if network.get("boot"))
    return (
        f"warning: this head runs at {head.address} ({head.interface}), but nodes are told that it is at {recorded} "
        f"(network {name}): none can boot. Give {head.interface} the address {recorded} alone and start again, or "
        f"correct the record: `shoal network set {name} head={head.address}`"
    )


def boot_head(document: Mapping[str, Any]) -> str | None:
    """`head` of the document's boot network; None where the document names none.

    Raises CannotStart where it is no address.
    """
    networks = document.get("networks")
    for name, network in networks.items() if isinstance(networks, Mapping) else ():
        if isinstance(network, Mapping) and str(network.get("boot")).lower() in {"true", "yes", "on", "1"}:
            head = network.get("head")
            if head is None:
                return None
            try:
                return str(ipaddress.IPv4Address(str(head)))
            except ValueError as error:
                raise CannotStart(f"networks.{name}.head: {error}") from error
    return None
