"""One life of a connection: a nats-py client from the moment it is let in to the moment it is lost.

nats-py's own reconnecting is off. A lost link is never mended: `connection` makes a new one, so that a restarted
server, an expired credential and a broken cable are one case and not three. Nodes carry this module.
"""

import asyncio
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import cast

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from shoal_bus.client import CONNECT_TIMEOUT, Client, Message, Receiver
from shoal_bus.credentials import Credentials
from shoal_bus.errors import BusError, NotPermitted, TooLarge, Unavailable
from shoal_bus.life import Life
from shoal_bus.servers import without_secrets

log = logging.getLogger("shoal.bus")

_PING_INTERVAL = 20
_PENDING_MESSAGES = 64 * 1024
_PENDING_BYTES = 64 << 20
_SHUT_TIMEOUT = 2.0
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
_NO_RESPONDERS = "503"
_INBOXES = "_INBOX."
_TELL_AGAIN = 60.0
"""Seconds between two lines in the log about answers that were not given."""


class NoResponders(Unavailable):
    """Nobody subscribes to what was asked: the request was certainly not carried out."""


class Link(Life):
    """Made by `dial`. Requests, and the raw client for what is built on it."""

    def __init__(self, server: str, counts: Counter[str], credentials: Credentials) -> None:
        super().__init__()
        self.server = without_secrets(server)
        self.lifetime = credentials.lifetime
        self.opened = time.monotonic()
        """Before the server saw our credentials: their lifetime has not begun earlier."""
        self._address = server
        self._credentials = credentials
        self.client = Client(self, credentials)
        self.denied: set[tuple[str, str]] = set()
        self._counts = counts
        self._inbox = f"{credentials.inbox_prefix}.{secrets.token_hex(11)}"
        self._requests = 0
        self._tell_of_replies = 0.0
        self._waiting: dict[str, tuple[str, asyncio.Future[Message]]] = {}

    @property
    def problem(self) -> Exception | None:
        """What was wrong last, as nats-py or the server says."""
        return self.client.last_error

    @property
    def waits_at_the_door(self) -> bool:
        """Whether the server has spoken, and not let us in yet."""
        return bool(self.client._server_info) and not self.client.is_connected

    def inbox(self) -> str:
        """A subject that only this link's own subscriptions hear."""
        self._requests += 1
        return f"{self._inbox}.s.{self._requests}"

    async def open(self, name: str) -> None:
        """Connect. Raises OSError, nats.errors.Error, TimeoutError or Unavailable."""
        credentials = self._credentials
        await self.client.connect(
            servers=[self._address],
            name=name,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT,
            ping_interval=_PING_INTERVAL,
            error_cb=self._failed,
            closed_cb=self._closed,
            user=credentials.user,
            password=credentials.password,
            token=credentials.token,
            signature_cb=None if credentials.key is None else self.client.signature,
            inbox_prefix=credentials.inbox_prefix,
        )
        if not self.client.is_connected:  # nats-py takes any line but an error for success: an INFO comes at any time
            self._counts["phantom_connections"] += 1
            raise Unavailable("the server had not let us in when nats-py said so")
        reader = self.client._reading_task
        if reader is not None:
            reader.add_done_callback(lambda _: self.end())
        await self.subscribe(f"{self._inbox}.*", self._answered)
        await self.client.barrier()
        if self.denied:
            raise Unavailable(f"the server does not let us hear answers at {credentials.inbox_prefix}.>")

    async def subscribe(
        self, subject: str, receive: Receiver, queue: str | None = None, *, bytes_limit: int = _PENDING_BYTES
    ) -> NatsSubscription:
        """nats-py's subscription, with bounds on what may wait in it (`bytes_limit` 0: none on the bytes)."""
        return await self.client.subscribe(
            subject,
            queue=queue or "",
            cb=cast("Callable[[Msg], Awaitable[None]]", receive),  # `Client` makes nothing but our `Message`
            pending_msgs_limit=_PENDING_MESSAGES,
            pending_bytes_limit=bytes_limit,
        )

    async def unsubscribe(self, subscription: NatsSubscription) -> None:
        """End a subscription at once; one whose client is closed has ended already."""
        try:
            await subscription.unsubscribe()
        except nats.errors.Error as error:
            log.debug("bus.unsubscribe subject=%s error=%s", subscription.subject, error)

    async def leave(self, subscription: NatsSubscription) -> None:
        """End a subscription after its last message: none that the server has sent already is lost. Raises Unavailable
        if the link is.
        """
        with self.in_use():
            await self.unless_lost(self.client.retire(subscription))

    async def request(self, subject: str, body: bytes, headers: dict[str, str] | None, timeout: float) -> Message:
        """One message out, the first answer in. Raises Unavailable, NotPermitted; TimeoutError if none is in time."""
        self._requests += 1
        inbox = f"{self._inbox}.{self._requests}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[inbox] = (subject, answer)
        try:
            with self.in_use():
                await self.publish(subject, body, headers, reply=inbox)
                async with asyncio.timeout(timeout):
                    message = await answer
        finally:
            del self._waiting[inbox]
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even if sending failed first
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS and not message.data:
            raise NoResponders(f"nobody answers {subject} now: is its service running?")
        return message

    async def publish(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """One message out. Raises Unavailable if the link is lost, BusError if the message cannot be sent at all."""
        if not self.alive:
            raise Unavailable("the connection to the bus is lost")
        try:
            await self.client.publish(subject, body, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError:
            limit = self.client.max_payload
            raise TooLarge(f"{subject}: {len(body)} bytes are more than the bus takes in a message ({limit})") from None
        except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            raise BusError(f"{subject!r} cannot be published: {error}") from error
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"{subject} could not be sent: {error}") from error

    async def reply(self, message: Message, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer a message, if it asks for that at an inbox: its sender may choose any subject, and we may publish to
        more of them than it may. Raises as `publish`.
        """
        if message.reply.startswith(_INBOXES):
            await self.publish(message.reply, body, headers)
            return
        self._counts["replies_refused"] += 1
        now = time.monotonic()
        if now >= self._tell_of_replies:
            self._tell_of_replies = now + _TELL_AGAIN
            told = "bus.reply_refused subject=%s reply=%.200r total=%d (expected one that starts with %s)"
            log.error(told, message.subject, message.reply, self._counts["replies_refused"], _INBOXES)

    async def flush(self, timeout: float = CONNECT_TIMEOUT) -> None:
        """Return when the server has all that was sent. Raises Unavailable."""
        try:
            async with asyncio.timeout(timeout):
                await self.unless_lost(self.client.barrier())
        except TimeoutError:
            raise Unavailable(f"the bus at {self.server} does not answer within {timeout:g} s") from None

    async def finished(self) -> None:
        """Return when nobody uses the link any more, and the server has what was sent. Raises Unavailable."""
        await self.unused()
        await self.flush()

    async def shut(self) -> None:
        """Close the client, whatever state it is in."""
        self.end()
        try:
            async with asyncio.timeout(_SHUT_TIMEOUT):
                await self.client.close()
        except (nats.errors.Error, OSError, TimeoutError, AssertionError) as error:
            log.debug("bus.shut server=%s error=%s", self.server, error)

    def end(self) -> None:
        """See `Life`. Nobody waits for an answer any longer."""
        if self.alive:
            for subject, answer in self._waiting.values():
                if not answer.done():
                    told = f"the connection broke before {subject} was answered; it may have been carried out"
                    answer.set_exception(Unavailable(told))
        super().end()

    async def _closed(self) -> None:
        self.end()

    async def _answered(self, message: Message) -> None:
        _, answer = self._waiting.get(message.subject, (None, None))
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _failed(self, error: Exception) -> None:
        """nats-py's error callback: permission errors and dropped messages are heard of nowhere else."""
        violation = _VIOLATION.search(str(error).lower())
        if violation:
            self._refused(violation[1], violation[2])
        elif isinstance(error, nats.errors.SlowConsumerError):
            self._counts["dropped"] += 1
            dropped = self._counts["dropped"]
            if dropped & (dropped - 1) == 0:
                log.error("bus.dropped subject=%s total=%d (more arrives than is taken)", error.subject, dropped)
        else:
            log.debug("bus.problem server=%s error=%r", self.server, error)

    def _refused(self, what: str, subject: str) -> None:
        self._counts["denied"] += 1
        self.denied.add((what, subject))
        log.error("bus.denied server=%s what=%s subject=%s", self.server, what, subject)
        if what != "publish":
            return
        for asked, answer in self._waiting.values():
            if asked.lower() == subject and not answer.done():
                answer.set_exception(NotPermitted(f"the bus does not let us send to {asked}"))
        self.refused(subject)
