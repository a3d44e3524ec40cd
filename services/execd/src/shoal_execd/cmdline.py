"""The kernel command line, as the boot file server rendered it. Pure: text in, values or CommandLineError out."""

import ipaddress
import re
from dataclasses import dataclass, field

from shoal_model import names, ports

_NATS = re.compile(r"(?P<scheme>nats|tls)://(?P<host>[A-Za-z0-9.-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
_BOOT = re.compile(r"[0-9a-f]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,400}")
_TELLING = 16
"""Characters that a secret has at least: what is shorter proves nothing, and stands in many a line by chance."""
_ETHERNET = "01"


class CommandLineError(ValueError):
    """A parameter is missing or malformed; the text names it and what was expected."""


@dataclass(frozen=True)
class Address:
    """What `ip=` says: IPv4 address, prefix length, gateway if there is one, host name."""

    address: str
    prefix: int
    gateway: str | None
    host_name: str


@dataclass(frozen=True)
class CommandLine:
    """Everything a stage needs to know before it reaches the head. `time` is in seconds since 1970.

    `token` proves this boot to a bus with TLS, and `ca` is the SHA-256 of the `ca.crt` that proves the bus to us; both
    are None where the bus has no TLS.
    """

    nats: tuple[str, ...]
    token: str | None = field(repr=False)
    ca: str | None
    node: str
    boot: str
    time: int | None
    ip: Address
    mac: str

    @property
    def head(self) -> str:
        """The host of the first bus server: where log lines go until the bus answers."""
        return self.heads[0]

    @property
    def heads(self) -> tuple[str, ...]:
        """The hosts of all bus servers."""
        return tuple(found["host"] for server in self.nats if (found := _NATS.fullmatch(server)))


def words(text: str) -> list[str]:
    """The parameters in a command line; double quotes keep spaces together, as the kernel reads them."""
    return [word.replace('"', "") for word in re.findall(r'(?:[^\s"]|"[^"]*(?:"|$))+', text)]


def flag(text: str, name: str) -> bool:
    """Whether the bare word `name` is on the command line, however broken the rest may be."""
    return name in words(text)


def secrets(text: str) -> list[str]:
    """What no log may show of a command line, however broken it is: the boot token."""
    tokens = [value for key, _, value in (word.partition("=") for word in words(text)) if key == "shoal.token"]
    return [token for token in tokens if len(token) >= _TELLING]


def parse(text: str) -> CommandLine:
    """Read a command line (`/proc/cmdline`). Raises CommandLineError.

    Of a parameter that is given twice, the first counts: the boot file server's own stand before the operator's, which
    must not make this node another one.
    """
    given: dict[str, str] = {}
    for word in words(text):
        key, _, value = word.partition("=")
        given.setdefault(key, value)
    servers = _servers(_required(given, "shoal.nats"))
    secure = servers[0].startswith("tls://")
    return CommandLine(
        nats=servers,
        token=_token(_required(given, "shoal.token")) if secure else None,
        ca=_ca(_required(given, "shoal.ca")) if secure else None,
        node=_node(_required(given, "shoal.node")),
        boot=_boot(_required(given, "shoal.boot")),
        time=_time(given.get("shoal.time")),
        ip=_address(_required(given, "ip")),
        mac=_mac(_required(given, "BOOTIF")),
    )


def _required(given: dict[str, str], key: str) -> str:
    value = given.get(key, "")
    if not value:
        raise CommandLineError(
            f"the kernel command line has no {key}=: boot this node through Shoal's boot file server"
        )
    return value


def _node(text: str) -> str:
    try:
        return names.name(text)
    except ValueError as error:
        raise CommandLineError(f"shoal.node= on the kernel command line: {error}") from None


def _servers(text: str) -> tuple[str, ...]:
    servers = tuple(part for part in text.split(",") if part)
    for server in servers:
        found = _NATS.fullmatch(server)
        if found is None or int(found["port"] or ports.NATS) > 0xFFFF:
            raise CommandLineError(f"shoal.nats= holds {server!r}; expected tls://<host>[:<port>], several with commas")
    if not servers:
        raise CommandLineError("shoal.nats= names no server")
    if len({server.partition(":")[0] for server in servers}) > 1:
        raise CommandLineError("shoal.nats= mixes servers with TLS (tls://) and without (nats://)")
    return servers


def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):  # not shown: it may be a token with something behind it
        raise CommandLineError("shoal.token= is no boot token: expected at most 400 letters, digits, `-` and `_`")
    return text


def _ca(text: str) -> str:
    try:
        return names.digest(text)
    except ValueError as error:
        raise CommandLineError(f"shoal.ca= is not the SHA-256 of a ca.crt: {error}") from None


def _boot(text: str) -> str:
    if not _BOOT.fullmatch(text):
        raise CommandLineError(f"shoal.boot= is {text!r}; expected a boot id in lower-case hex")
    return text


def _time(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise CommandLineError(f"shoal.time= is {text!r}; expected seconds since 1970")
    return int(text)


def _mac(text: str) -> str:
    hardware, _, address = text.partition("-")
    try:
        if hardware != _ETHERNET:
            raise ValueError(f"hardware type {hardware!r} is not 01 (Ethernet)")
        return names.mac(address)
    except ValueError as error:
        raise CommandLineError(f"BOOTIF= is {text!r}, expected 01-aa-bb-cc-dd-ee-ff: {error}") from None


def _address(text: str) -> Address:
    """`<address>:<server>:<gateway>:<netmask>:<host name>:…`, as the kernel's nfsroot.rst describes `ip=`."""
    fields = [*text.split(":"), "", "", "", "", ""]
    address, _, gateway, netmask, host_name = fields[:5]
    try:
        interface = ipaddress.IPv4Interface(f"{address}/{netmask}")
        return Address(
            address=str(interface.ip),
            prefix=interface.network.prefixlen,
            gateway=str(ipaddress.IPv4Address(gateway)) if gateway else None,
            host_name=host_name,
        )
    except ValueError as error:
        raise CommandLineError(
            f"ip= is {text!r}, expected <address>::<gateway>:<netmask>:<host name>:: ({error})"
        ) from None
