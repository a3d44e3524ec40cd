"""One life of a connection: a nats-py client from the moment it is let in to the moment it is lost.

nats-py's own reconnecting is off. A lost link is never mended: `connection` makes a new one, so that a restarted
server, an expired credential and a broken cable are one case and not three. Nodes carry this module.
"""

import asyncio
import logging
import os
import re
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from shoal_bus.errors import BusError, Denied, TooLarge, Unavailable
from shoal_bus.servers import without_secrets

log = logging.getLogger("shoal.bus")

CONNECT_TIMEOUT = 15
"""Seconds for each step of connecting: behind an auth callout a boot storm makes them long."""
_PING_INTERVAL = 20
_PENDING_MESSAGES = 64 * 1024
_PENDING_BYTES = 64 << 20
_SHUT_TIMEOUT = 2.0
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
_NO_RESPONDERS = "503"
_INBOXES = "_INBOX."
_TELL_AGAIN = 60.0
"""Seconds between two lines in the log about answers that were not given."""


@dataclass(frozen=True)
class Credentials:
    """What proves us to the server: any of these together. `inbox_prefix` is what permissions let us listen on: it
    begins with `_INBOX.` if it is not `_INBOX` itself, as nobody answers elsewhere.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey_seed: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    inbox_prefix: str = "_INBOX"


class Message(Msg):
    """A message as it came over the wire, and when: seconds of the monotonic clock."""

    arrived: float = 0.0


Receiver = Callable[[Message], Awaitable[None]]


@contextmanager
def _cancellations_felt() -> Iterator[None]:
    """Raise CancelledError at the end if the task was cancelled meanwhile, and whoever was awaited kept it silent."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


class _Client(Client):
    """nats-py's, without four faults. Its reader dies, unseen, of a subject that is not UTF-8 (with one, whoever may
    publish could deafen us) and of a PONG for a cancelled `flush()`. The PING of its `flush()` overtakes what waits
    to be written: its PONG proves nothing. And whatever sends or flushes may swallow the cancellation of its task.
    """

    async def _flush_pending(self, force_flush: bool = False) -> None:
        with _cancellations_felt():
            await super()._flush_pending(force_flush)  # ends in `except CancelledError: pass`

    async def flush(self, timeout: int = CONNECT_TIMEOUT) -> None:
        """As nats-py's."""
        with _cancellations_felt():
            await super().flush(timeout)  # asyncio.wait_for() of Python 3.11 swallows one that comes with the result

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()  # the one before was given up
        await super()._process_pong()

    async def barrier(self) -> None:
        """Return when the server has taken all that was sent. Raises nats.errors.Error, OSError."""
        await self._flush_pending(force_flush=True)
        await self.flush(CONNECT_TIMEOUT)

    async def retire(self, subscription: NatsSubscription) -> None:
        """End a subscription after its last message: none that the server has sent already is lost."""
        await self._send_unsubscribe(subscription._id)
        await self.barrier()
        await subscription.drain()  # type: ignore[no-untyped-call]

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Message:
        message = Message(
            _client=self,
            _sid=sid,
            subject=subject.decode("utf-8", "replace"),
            reply=reply.decode("utf-8", "replace"),
            data=data,
            headers=headers,
        )
        message.arrived = time.monotonic()
        return message


class Link:
    """Made by `dial`. Requests, and the raw client for what is built on it."""

    def __init__(self, server: str, counts: Counter[str], inbox_prefix: str) -> None:
        self.server = without_secrets(server)
        self._address = server
        self.client = _Client()
        self.denied: set[tuple[str, str]] = set()
        self.problem: Exception | None = None
        self._counts = counts
        self._inbox = f"{inbox_prefix}.{secrets.token_hex(11)}"
        self._requests = 0
        self._tell_of_replies = 0.0
        self._waiting: dict[str, tuple[str, asyncio.Future[Message]]] = {}
        self._lost = asyncio.Event()
        self._on_lost: dict[object, Callable[[], None]] = {}

    @property
    def alive(self) -> bool:
        """Whether it can still be used."""
        return not self._lost.is_set()

    async def lost(self) -> None:
        """Return when the link is lost."""
        await self._lost.wait()

    def when_lost(self, key: object, call: Callable[[], None]) -> None:
        """Have `call` run when the link is lost (at once if it is already), until `forget(key)`."""
        self._on_lost[key] = call
        if not self.alive:
            call()

    def forget(self, key: object) -> None:
        """See `when_lost`."""
        self._on_lost.pop(key, None)

    def inbox(self) -> str:
        """A subject that only this link's own subscriptions hear."""
        self._requests += 1
        return f"{self._inbox}.s.{self._requests}"

    async def open(self, name: str, credentials: Credentials) -> None:
        """Connect. Raises OSError, nats.errors.Error, TimeoutError or Unavailable."""
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
            nkeys_seed_str=credentials.nkey_seed,
            tls=credentials.tls,
            inbox_prefix=credentials.inbox_prefix,
        )
        if not self.client.is_connected:
            # The server's own PING came before its PONG, and nats-py takes any line for success.
            self._counts["phantom_connections"] += 1
            raise Unavailable("the server had not let us in when nats-py said so")
        reader = self.client._reading_task
        if reader is not None:
            reader.add_done_callback(lambda _: self._end())
        await self.subscribe(f"{self._inbox}.*", self._answered)
        await self.client.barrier()

    async def subscribe(
        self, subject: str, receive: Receiver, queue: str | None = None, *, bytes_limit: int = _PENDING_BYTES
    ) -> NatsSubscription:
        """nats-py's subscription, with bounds on what may wait in it (`bytes_limit` 0: none on the bytes)."""
        return await self.client.subscribe(
            subject,
            queue=queue or "",
            cb=cast("Callable[[Msg], Awaitable[None]]", receive),  # `_Client` makes nothing but our `Message`
            pending_msgs_limit=_PENDING_MESSAGES,
            pending_bytes_limit=bytes_limit,
        )

    async def unsubscribe(self, subscription: NatsSubscription) -> None:
        """End a subscription at once; one whose client is closed has ended already."""
        try:
            await subscription.unsubscribe()
        except nats.errors.Error as error:
            log.debug("bus.unsubscribe subject=%s error=%s", subscription.subject, error)

    async def request(self, subject: str, body: bytes, headers: dict[str, str] | None, timeout: float) -> Message:
        """One message out, the first answer in. Raises Unavailable or Denied; `TimeoutError` if none comes in time."""
        self._requests += 1
        inbox = f"{self._inbox}.{self._requests}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[inbox] = (subject, answer)
        try:
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
                await self.client.barrier()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"the bus at {self.server} does not answer: {error}") from error

    async def shut(self) -> None:
        """Close the client, whatever state it is in."""
        self._end()
        try:
            async with asyncio.timeout(_SHUT_TIMEOUT):
                await self.client.close()
        except (nats.errors.Error, OSError, TimeoutError, AssertionError) as error:
            log.debug("bus.shut server=%s error=%s", self.server, error)

    def _end(self) -> None:
        if self._lost.is_set():
            return
        self._lost.set()
        for subject, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(
                    Unavailable(f"the connection broke before {subject} was answered; it may have been carried out")
                )
        for call in list(self._on_lost.values()):
            call()

    async def _closed(self) -> None:
        self._end()

    async def _answered(self, message: Message) -> None:
        _, answer = self._waiting.get(message.subject, (None, None))
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _failed(self, error: Exception) -> None:
        """nats-py's error callback: permission errors and dropped messages are heard of nowhere else."""
        self.problem = error
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
        for asked, answer in self._waiting.values():
            if what == "publish" and asked.lower() == subject and not answer.done():
                answer.set_exception(Denied(f"the bus does not let us send to {asked}"))


class NoResponders(Unavailable):
    """Nobody subscribes to what was asked: the request was certainly not carried out."""


async def dial(server: str, name: str, credentials: Credentials, counts: Counter[str]) -> Link:
    """A link to one server, let in and answering. Raises Unavailable with the reason."""
    link = Link(server, counts, credentials.inbox_prefix)
    began = time.monotonic()
    try:
        async with asyncio.timeout(3 * CONNECT_TIMEOUT):
            await link.open(name, credentials)
    except (OSError, nats.errors.Error, TimeoutError, ValueError, Unavailable) as error:
        await link.shut()
        reason = link.problem if isinstance(error, nats.errors.NoServersError) and link.problem else error
        told = in_words(str(reason))
        if isinstance(reason, TimeoutError) and reason.errno is None:
            told = f"no answer within {time.monotonic() - began:.0f} s"
        raise Unavailable(told or type(reason).__name__) from error
    except BaseException:
        await link.shut()
        raise
    if not link.alive:
        raise Unavailable(f"lost at once: {link.problem}")
    return link


def in_words(told: str) -> str:
    """What asyncio and the system say of a connection that failed, without their numbers: `Connection refused`."""
    told = re.sub(r"\[Errno ([0-9]+)\] Connect call failed \(.*?\)", lambda found: os.strerror(int(found[1])), told)
    return re.sub(r"\[Errno -?[0-9]+\] ", "", told)
