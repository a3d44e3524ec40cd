"""A session with a cluster: where its bus is, who asks, and one event loop for one command."""

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from shoal_bus.api import Bus
from shoal_bus.errors import BusError, Unavailable
from shoal_cli import documents
from shoal_cli.terminal import safe

T = TypeVar("T")

DEFAULT_STATE = Path("/var/lib/shoal")
_CONTEXT = "context.yaml"
_CONNECT_SECONDS = 5.0


class Failure(click.ClickException):
    """What was asked for did not happen. The text is for people; exit status 1."""

    def format_message(self) -> str:
        """The message, safe to print: parts of it may come from elsewhere."""
        return "\n".join(safe(line) for line in self.message.split("\n"))


@dataclass(frozen=True)
class Session:
    """`connect` opens the bus; `author` is who stands behind a change."""

    connect: Callable[[], AbstractAsyncContextManager[Bus]]
    author: str

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


def servers(given: str | None, state: Path) -> list[str]:
    """The bus addresses: `given` (comma-separated), else what `shoal up` wrote into the state directory.

    Raises click.UsageError if neither says.
    """
    if given:
        return [part.strip() for part in given.split(",") if part.strip()]
    try:
        context = documents.parse_map((state / _CONTEXT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise click.UsageError(
            f"no cluster to talk to: {state / _CONTEXT} does not exist, so no `shoal up` ran here. "
            "Give --nats nats://HEAD:4222 or set SHOAL_NATS, or SHOAL_STATE to the head's state directory."
        ) from None
    except (OSError, UnicodeDecodeError, documents.DocumentError) as error:
        raise click.UsageError(f"cannot read {state / _CONTEXT}: {error}. Give --nats or set SHOAL_NATS.") from error
    address = context.get("nats")
    if not isinstance(address, str) or not address:
        raise click.UsageError(f"{state / _CONTEXT} names no bus: expected a line `nats: nats://HEAD:4222`.")
    return [address]


def write_context(state: Path, nats: str) -> None:
    """Leave word for other commands where this head's bus is."""
    new = state / f".{_CONTEXT}.new"
    new.write_text(f"# Written by `shoal up`: where the other commands find this head.\nnats: {nats}\n")
    new.replace(state / _CONTEXT)


def over_nats(addresses: list[str]) -> Callable[[], AbstractAsyncContextManager[Bus]]:
    """How to open the real bus, within a few seconds or not at all."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[Bus]:
        from shoal_bus.nats import NatsBus  # late: `shoal --help` needs no bus

        try:
            bus = await NatsBus.connect(addresses, name="shoal-cli", timeout=_CONNECT_SECONDS)
        except Unavailable as error:
            raise Unavailable(
                f"{error}. Does `shoal up` run on the head, and is this machine in its boot network?"
            ) from None
        try:
            yield bus
        finally:
            await bus.close()

    return connect


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
