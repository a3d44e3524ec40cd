"""A session with a cluster: where its bus is, who asks, and one event loop for one command."""

import asyncio
import getpass
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
import yaml

from shoal_bus.api import Bus
from shoal_bus.credentials import Credentials
from shoal_bus.errors import BusError, Unavailable
from shoal_cli import documents
from shoal_cli.identity.files import place
from shoal_cli.terminal import safe
from shoal_identity import trust
from shoal_identity.keys import Key, KeyProblem
from shoal_model import subjects
from shoal_model.contract import OPERATOR

T = TypeVar("T")

DEFAULT_STATE = Path("/var/lib/shoal")
_CONTEXT = "context.yaml"
_CONNECT_SECONDS = 5.0
_UNBROKEN = 1 << 20  # characters that a line of YAML may have
_NO_KEY = ". Run this as root on the head, or name a copy of the key that is your own: --key FILE or SHOAL_KEY"


class Failure(click.ClickException):
    """What was asked for did not happen. The text is for people; exit status 1."""

    def format_message(self) -> str:
        """The message, safe to print: parts of it may come from elsewhere."""
        return "\n".join(safe(line) for line in self.message.split("\n"))


@dataclass(frozen=True)
class Access:
    """Where the bus is, and the files that open it: `ca.crt`, and the seed of an operator's key."""

    servers: tuple[str, ...]
    ca: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Session:
    """`connect` opens the bus; `author` is who stands behind a change; `tls` is how the other doors of a head are
    checked, None for one whose doors have no TLS.
    """

    connect: Callable[[], AbstractAsyncContextManager[Bus]]
    author: str
    tls: Callable[[], ssl.SSLContext | None] = lambda: None

    def run(self, body: Callable[[Bus], Awaitable[T]]) -> T:
        """Do `body` with the bus. What the bus or the other side refuses becomes a Failure."""
        return asyncio.run(self._run(body))

    async def _run(self, body: Callable[[Bus], Awaitable[T]]) -> T:
        try:
            async with self.connect() as bus:
                return await body(bus)
        except BusError as error:
            raise Failure(str(error)) from error


def author() -> str:
    """Who runs this command: `user@host`, the person behind sudo where there is one."""
    user = os.environ.get("SUDO_USER") or _login()
    return f"{user}@{socket.gethostname()}"


def access(nats: str | None, ca: Path | None, key: Path | None, state: Path) -> Access:
    """How the cluster is reached: by what was given (`nats`: comma-separated), else by what `shoal up` wrote into the
    state directory; a `ca` or `key` that was given goes before that.

    Raises click.UsageError if neither says where the bus is.
    """
    if nats:
        return Access(tuple(part.strip() for part in nats.split(",") if part.strip()), ca, key)
    file = state / _CONTEXT
    try:
        context = documents.parse_map(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise click.UsageError(
            f"no cluster to talk to: {file} does not exist, so no `shoal up` ran here. "
            "Give --nats tls://HEAD:4222 with --ca and --key or set SHOAL_NATS, SHOAL_CA and SHOAL_KEY, "
            "or set SHOAL_STATE to the head's state directory."
        ) from None
    except (OSError, UnicodeDecodeError, documents.DocumentError) as error:
        raise click.UsageError(f"cannot read {file}: {error}. Give --nats or set SHOAL_NATS.") from error
    address = context.get("nats")
    if not isinstance(address, str) or not address:
        raise click.UsageError(f"{file} names no bus: expected a line `nats: tls://HEAD:4222`.")
    return Access((address,), ca or _path(context.get("ca")), key or _path(context.get("key")))


def write_context(state: Path, access: Access) -> None:
    """Leave word for other commands where this head's bus is, and where the files are that open it. Raises OSError."""
    context = {"nats": ",".join(access.servers), "ca": str(access.ca), "key": str(access.key)}
    head = "# Written by `shoal up`: where the other commands find this head.\n"
    place(state / _CONTEXT, (head + yaml.safe_dump(context, sort_keys=False, width=_UNBROKEN)).encode(), 0o644)


def over_nats(access: Access) -> Callable[[], AbstractAsyncContextManager[Bus]]:
    """How to open the real bus, within a few seconds or not at all."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[Bus]:
        from shoal_bus.nats import NatsBus  # late: `shoal --help` needs no bus

        credentials = _credentials(access)
        try:
            bus = await NatsBus.connect(
                access.servers, name="shoal-cli", credentials=credentials, timeout=_CONNECT_SECONDS
            )
        except Unavailable as error:
            raise Unavailable(
                f"{error}. Does `shoal up` run on the head, is this machine in its boot network, and are CA and key "
                "those of this cluster?"
            ) from None
        try:
            yield bus
        finally:
            await bus.close()

    return connect


def _credentials(access: Access) -> Credentials:
    """What proves us to the bus, and it to us. Raises Failure, saying what to do."""
    try:
        key = Key.read(access.key) if access.key is not None else None
    except KeyProblem as error:
        raise Failure(f"{error}{'' if os.access(access.key or '', os.R_OK) else _NO_KEY}") from None
    return Credentials(key=key, tls=tls(access), inbox_prefix=subjects.inbox(OPERATOR))


def tls(access: Access) -> ssl.SSLContext | None:
    """How a head is known by its certificate; None without a `ca.crt`. Raises Failure, saying what to do."""
    try:
        return trust.parse(access.ca.read_bytes()).client_context() if access.ca is not None else None
    except OSError as error:
        raise Failure(f"cannot read {access.ca}, which says whose bus to trust: {error.strerror}") from error
    except trust.BadTrust as error:
        raise Failure(f"{access.ca}: {error}") from error


def _path(given: object) -> Path | None:
    return Path(given) if isinstance(given, str) and given else None


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
