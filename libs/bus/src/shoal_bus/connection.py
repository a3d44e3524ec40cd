"""The connection to the bus that never gives up: nats-py and msgpack, no pydantic, so that nodes carry it too.

Links are lost and made anew underneath (`links`); subscriptions move to each new one before anybody may use it.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from shoal_bus import codec, limits, trace
from shoal_bus.client import Message, Receiver
from shoal_bus.credentials import Credentials
from shoal_bus.errors import BY_CODE, BusError, Internal, Invalid, NotPermitted, TooLarge, Unavailable
from shoal_bus.link import Link, NoResponders
from shoal_bus.links import Links
from shoal_bus.listening import Listening
from shoal_bus.servers import checked

__all__ = ["Connection", "Credentials", "Listening", "Message", "NoResponders", "connect"]

log = logging.getLogger("shoal.bus")

ERROR_TEXT = "Nats-Service-Error"
ERROR_CODE = "Nats-Service-Error-Code"
DEADLINE = "Deadline"
"""Seconds that the caller waits, from when it sent. Not a time of day: a node asks before its clock is right."""

_HEADER_TEXT = 500

MapHandler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any] | None]]


class Connection:
    """Made by `connect`. Requests, messages and subscriptions with plain maps; `nats` builds on the rest."""

    def __init__(self, servers: Sequence[str], name: str, credentials: Credentials | Callable[[], Credentials]) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self._links = Links(servers, name, credentials, self.counts)

    @property
    def connected(self) -> bool:
        """Whether the server can be reached, as far as we know."""
        return self._links.connected

    async def start(self, timeout: float | None) -> None:
        """Begin to connect, and return when it worked. Raises Unavailable after `timeout` seconds."""
        self._links.start()
        await self.link(timeout)

    async def link(self, timeout: float | None = None) -> Link:
        """The link as it is now, or as soon as there is one. Raises Unavailable after `timeout` seconds."""
        return await self._links.current(timeout)

    async def request(self, subject: str, message: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
        """Ask and wait for the answer. Raises the BusError of the other side; Unavailable when there is none."""
        answer = await self.request_raw(subject, codec.pack(dict(message)), timeout=timeout)
        return codec.unpack(answer, limits.of_answer(subject))

    async def request_raw(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None, *, timeout: float = 5.0
    ) -> bytes:
        """The same with bodies as bytes."""
        body, encoding = codec.squeeze(body)
        sent = {"traceparent": trace.header(), DEADLINE: f"{timeout:.3f}", **(headers or {}), **encoding}
        reply = await self.exchange(subject, body, sent, timeout=timeout)
        received = reply.headers or {}
        content = codec.expand(reply.data, received.get(codec.CONTENT_ENCODING), limits.of_answer(subject))
        if ERROR_CODE in received:
            raise _error(received, content)
        return content

    async def exchange(self, subject: str, body: bytes, headers: dict[str, str] | None, *, timeout: float) -> Message:
        """One message out and the first one back, whatever it says. Raises Unavailable or NotPermitted."""
        deadline = asyncio.get_running_loop().time() + timeout
        link = await self.link(timeout)
        left = max(deadline - asyncio.get_running_loop().time(), 0.001)
        try:
            return await link.request(subject, body, headers, left)
        except TimeoutError:
            raise Unavailable(f"{subject} did not answer within {timeout:g} s; it may still be carried out") from None

    async def publish(self, subject: str, message: Mapping[str, Any], timeout: float = 5.0) -> None:
        """Send to whoever listens. Raises Unavailable if the bus cannot be reached for `timeout` seconds."""
        await self.publish_raw(subject, codec.pack(dict(message)), timeout=timeout)

    async def publish_raw(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None, *, timeout: float = 5.0
    ) -> None:
        """The same with a body as bytes."""
        link = await self.link(timeout)
        await link.publish(subject, body, {"traceparent": trace.header(), **(headers or {})})

    async def subscribe(self, subject: str, handler: MapHandler, *, queue: str | None = None) -> Listening:
        """Hear messages; what `handler(subject, map)` returns is the reply to a request, and a BusError its error.

        Returns when the server knows. Raises NotPermitted if it refuses.
        """

        async def receive(message: Message) -> None:
            async def produce() -> tuple[bytes, dict[str, str]]:
                reply = await handler(message.subject, codec.unpack(self.body(message), limits.of(message.subject)))
                return codec.pack(reply or {}), {}

            await self.answer(message, produce)

        return await self.listen(subject, receive, queue=queue)

    async def listen(self, subject: str, receive: Receiver, *, queue: str | None = None) -> Listening:
        """Hear messages as they come over the wire. Raises NotPermitted or Unavailable."""
        listening = Listening(subject, receive, queue, counts=self.counts, forget=self._links.remove)
        await self._links.add(listening)
        return listening

    def body(self, message: Message) -> bytes:
        """A message's body, inflated if it was sent so. Raises Invalid."""
        encoding = (message.headers or {}).get(codec.CONTENT_ENCODING)
        return codec.expand(message.data, encoding, limits.of(message.subject))

    async def answer(
        self, message: Message, produce: Callable[[], Awaitable[tuple[bytes, dict[str, str]]]]
    ) -> str | None:
        """Run what answers a message (a body and its headers), and send that or its error, if an answer is wanted.

        A BusError is for the caller; of anything else the caller gets an id, and the log the rest. Gives the error.
        """
        trace.enter((message.headers or {}).get("traceparent"))
        try:
            body, headers = await produce()
            if message.reply:
                body, encoding = codec.squeeze(body)
                await self.reply(message, body, {**headers, **encoding})
            return None
        except TooLarge as error:
            failure: BusError = Internal(f"the answer is too large: {error}")
        except BusError as error:
            failure = error
        except Exception:
            failure = Internal(f"internal error {secrets.token_hex(4)}")
            self.counts["handler_errors"] += 1
            log.exception("bus.handler subject=%s error=%s", message.subject, failure)
        await self._refuse(message, failure)
        return f"{failure.code}: {' '.join(str(failure).split())}"

    async def reply(self, message: Message, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer where the message came from; over another link if that one is lost. Raises BusError."""
        link = message.link if message.link.alive else await self.link(1.0)
        await link.reply(message, body, headers)

    async def _refuse(self, message: Message, failure: BusError) -> None:
        if not message.reply:
            self.counts["rejected"] += 1
            log.warning("bus.rejected subject=%s error=%s", message.subject, failure)
            return
        text = str(failure)
        headers = {ERROR_CODE: str(failure.code), ERROR_TEXT: " ".join(text.split())[:_HEADER_TEXT]}
        try:
            await self.reply(message, codec.pack({"error": text}), headers)
        except BusError as error:
            log.warning("bus.unanswered subject=%s error=%s", message.subject, error)

    async def flush(self, timeout: float = 10.0) -> None:
        """Return when the server has all that was sent. Raises NotPermitted if it refused some of it, Unavailable."""
        link = await self.link(timeout)
        await link.flush(timeout)
        refused = sorted(subject for what, subject in link.denied if what == "publish")
        if refused:
            link.denied -= {("publish", subject) for subject in refused}
            raise NotPermitted(f"the bus does not let {self.name} send to {', '.join(refused)}")

    async def drain(self) -> None:
        """Stop every subscription and finish the handlers that run."""
        await self._links.drain()

    async def close(self) -> None:
        """Drain, then disconnect for good."""
        await self._links.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def connect(
    servers: Sequence[str],
    *,
    name: str,
    credentials: Credentials | Callable[[], Credentials] | None = None,
    timeout: float | None = None,
) -> Connection:
    """Connect to any of these servers (`nats://host:port`). Tries for ever, or for `timeout` seconds: then Unavailable.
    Raises Invalid for what is no server's address.

    `credentials` may be a function: it is asked anew for each connection, so that what expires can be renewed. With a
    `lifetime` there is a new connection before the old one expires: no request is lost, and no message to a queue
    group; any other subscription may see a message twice at that moment.
    """
    if not servers:
        raise Invalid("no NATS server is named: expected at least one nats://host:port")
    try:
        servers = [checked(server) for server in servers]
    except ValueError as error:
        raise Invalid(f"no NATS server: {error}") from None
    connection = Connection(servers, name, credentials or Credentials())
    try:
        await connection.start(timeout)
    except BaseException:
        await connection.close()
        raise
    return connection


def _error(headers: Mapping[str, str], content: bytes) -> BusError:
    """The error that an answer carries: its text from the body, where lines survive, else from the header."""
    code = headers[ERROR_CODE]
    text = headers.get(ERROR_TEXT, "the other side gave no reason")
    try:
        full = codec.unpack(content).get("error") if content else None
    except Invalid:
        full = None
    kind = BY_CODE.get(int(code) if code.isdecimal() and len(code) < 4 else 500, Internal)
    return kind(full if isinstance(full, str) else text)
