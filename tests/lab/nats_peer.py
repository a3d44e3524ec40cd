"""A client of NATS with nothing between test and wire: says what it likes, and hears what the server refuses."""

import asyncio
import base64
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, Self

from shoal_identity.keys import Key

_VIOLATION = re.compile(r"-ERR 'Permissions Violation for (Publish|Subscription) to \"([^\"]+)\"")


class Refused(Exception):
    """The server does not let us in, or has cut us off; the text is its own."""


class Heard(NamedTuple):
    """A message; `reply` is where its sender waits for an answer, if it does."""

    subject: str
    body: bytes
    reply: str = ""


class NatsPeer:
    """Made by `open`. One task at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.messages: list[Heard] = []
        """What came on subscriptions."""
        self._reader, self._writer = reader, writer
        self._refused: set[tuple[str, str]] = set()
        self._subscriptions = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, port: int, key: Key, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", **options: str
    ) -> AsyncIterator[Self]:
        """Connected and let in. Raises Refused."""
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                info = json.loads((await reader.readline()).removeprefix(b"INFO "))
                if tls is not None:
                    await writer.start_tls(tls, server_hostname=host)
                signature = base64.urlsafe_b64encode(key.sign(info["nonce"].encode())).decode().rstrip("=")
                proof = {"nkey": key.public, "sig": signature, "headers": True, "verbose": False, "pedantic": False}
                peer = cls(reader, writer)
                peer._say(f"CONNECT {json.dumps({**proof, **options})}")
                await peer.settle()
            except BaseException:
                await _shut(writer)
                raise
        try:
            yield peer
        finally:
            await _shut(writer)

    async def refused(self, *, publish: Iterable[str] = (), subscribe: Iterable[str] = ()) -> tuple[set[str], set[str]]:
        """Publish an empty message to each of these and subscribe to each of those: what the server refuses of both."""
        self._refused.clear()
        for subject in publish:
            self.publish(subject)
        for subject in subscribe:
            self.subscribe(subject)
        await self.settle()
        kinds = ("Publish", "Subscription")
        published, subscribed = ({subject for kind, subject in self._refused if kind == one} for one in kinds)
        return published, subscribed

    def publish(self, subject: str, body: bytes = b"", *, reply: str = "", headers: str = "") -> None:
        """Send a message; `headers` are lines such as `Nats-Msg-Id: 1`."""
        head = f"NATS/1.0\r\n{headers}\r\n\r\n".encode() if headers else b""
        sizes = f"{len(head)} {len(head) + len(body)}" if headers else f"{len(body)}"
        self._say(f"{'HPUB' if headers else 'PUB'} {subject} {reply} {sizes}")
        self._writer.write(head + body + b"\r\n")

    def subscribe(self, subject: str) -> None:
        """Hear messages from now on."""
        self._subscriptions += 1
        self._say(f"SUB {subject} {self._subscriptions}")

    async def settle(self) -> None:
        """Return when the server has taken all that was said before. Raises Refused."""
        self._say("PING")
        async with asyncio.timeout(20):
            while (line := await self._line()) != "PONG":
                await self._heard(line)

    async def next(self) -> Heard:
        """The first message that was not taken yet. Raises Refused, TimeoutError."""
        async with asyncio.timeout(20):
            while not self.messages:
                await self._heard(await self._line())
        return self.messages.pop(0)

    async def _heard(self, line: str) -> None:
        if line == "PING":
            self._say("PONG")
        elif line.startswith(("MSG ", "HMSG ")):
            await self._message(line)
        elif found := _VIOLATION.match(line):
            self._refused.add((found[1], found[2]))
        elif line.startswith("-ERR"):
            raise Refused(line)

    async def _message(self, line: str) -> None:
        kind, subject, _, *reply, size = line.split()
        if kind == "HMSG":
            reply.pop()  # the size of the headers
        body = (await self._reader.readexactly(int(size) + 2))[:-2]
        self.messages.append(Heard(subject, body, *reply))

    async def _line(self) -> str:
        line = await self._reader.readline()
        if not line:
            raise Refused("the server has closed the connection")
        return line.decode().rstrip("\r\n")

    def _say(self, line: str) -> None:
        self._writer.write(f"{line}\r\n".encode())


async def _shut(writer: asyncio.StreamWriter) -> None:
    """Close, and return when nothing of it is left for the loop to do."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
