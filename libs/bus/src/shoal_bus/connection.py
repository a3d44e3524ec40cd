"""The connection to the bus that never gives up: nats-py and msgpack, no pydantic, so that nodes carry it too.

Links are lost and made anew underneath (`link`); subscriptions move to each new one before anybody may use it.
"""

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import nats.errors
from nats.aio.subscription import Subscription as NatsSubscription

from shoal_bus import codec, trace
from shoal_bus.errors import BY_CODE, BusError, Denied, Internal, Invalid, TooLarge, Unavailable
from shoal_bus.link import Credentials, Link, Message, NoResponders, Receiver, dial
from shoal_bus.servers import checked, without_secrets

__all__ = ["Connection", "Credentials", "Listening", "Message", "NoResponders", "connect"]

log = logging.getLogger("shoal.bus")

ERROR_TEXT = "Nats-Service-Error"
ERROR_CODE = "Nats-Service-Error-Code"
DEADLINE = "Deadline"
"""Seconds that the caller waits, from when it sent. Not a time of day: a node asks before its clock is right."""

_DRAIN_TIMEOUT = 8.0
_AT_ONCE = 256
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
_HEADER_TEXT = 500

MapHandler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any] | None]]


class Listening:
    """A subscription that outlives its links, with a task for each message and at most `at_once` of them."""

    def __init__(self, owner: "Connection", subject: str, receive: Receiver, queue: str | None, at_once: int) -> None:
        self.subject = subject
        self._owner = owner
        self._receive = receive
        self._queue = queue
        self._free = asyncio.Semaphore(at_once)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: NatsSubscription | None = None
        self._link: Link | None = None
        self._stopped = False

    async def attach(self, link: Link) -> None:
        """Listen on this link from now on; nothing happens once `stop` was called."""
        if self._link is link or self._stopped:
            return
        self._subscription = await link.subscribe(self.subject, self._arrived, self._queue)
        self._link = link

    async def stop(self) -> None:
        """Take no more messages, finish the handlers that run (8 s at most)."""
        self._stopped = True
        self._owner.remove(self)
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                if self._subscription is not None and self._link is not None and self._link.alive:
                    await self._link.client.retire(self._subscription)
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except (nats.errors.Error, OSError) as error:
            log.warning("bus.drain subject=%s error=%s", self.subject, error)
        except TimeoutError:
            log.warning("bus.drain subject=%s unfinished=%d", self.subject, len(self._tasks))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _arrived(self, message: Message) -> None:
        # nats-py waits for this before it takes the next message: so it does the least, and holds back when we are full
        await self._free.acquire()
        task = asyncio.create_task(self._handle(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, message: Message) -> None:
        try:
            await self._receive(message)
        except Exception:
            self._owner.counts["handler_errors"] += 1
            log.exception("bus.handler subject=%s", self.subject)
        finally:
            self._free.release()


class Connection:
    """Made by `connect`. Requests, messages and subscriptions with plain maps; `nats` builds on the rest."""

    def __init__(self, servers: Sequence[str], name: str, credentials: Credentials | Callable[[], Credentials]) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self._servers = list(servers)
        self._credentials = credentials
        self._listenings: list[Listening] = []
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._closed = False
        self._attaching = asyncio.Lock()
        self._supervisor: asyncio.Task[None] | None = None
        self._problems: dict[str, str] = {}
        """What was wrong last with each server that was tried."""

    @property
    def connected(self) -> bool:
        """Whether the server can be reached, as far as we know."""
        return self._link is not None and self._link.alive

    async def start(self, timeout: float | None) -> None:
        """Begin to connect, and return when it worked. Raises Unavailable after `timeout` seconds."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"bus {self.name}")
        await self.link(timeout)

    async def link(self, timeout: float | None = None) -> Link:
        """The link as it is now, or as soon as there is one. Raises Unavailable after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not self._closed:
                    if self._link is not None and self._link.alive:
                        return self._link
                    await self._up.wait()
        except TimeoutError:
            told = "; ".join(f"{server}: {problem}" for server, problem in self._problems.items())
            raise Unavailable(f"the bus cannot be reached within {timeout:g} s: {told}") from None
        raise Unavailable("the connection to the bus is closed")

    async def request(self, subject: str, message: Mapping[str, Any], timeout: float = 5.0) -> dict[str, Any]:
        """Ask and wait for the answer. Raises the BusError of the other side; Unavailable when there is none."""
        return codec.unpack(await self.request_raw(subject, codec.pack(dict(message)), timeout=timeout))

    async def request_raw(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None, *, timeout: float = 5.0
    ) -> bytes:
        """The same with bodies as bytes."""
        body, encoding = codec.squeeze(body)
        sent = {"traceparent": trace.header(), DEADLINE: f"{timeout:.3f}", **(headers or {}), **encoding}
        reply = await self.exchange(subject, body, sent, timeout=timeout)
        received = reply.headers or {}
        content = codec.expand(reply.data, received.get(codec.CONTENT_ENCODING))
        if ERROR_CODE in received:
            raise _error(received, content)
        return content

    async def exchange(self, subject: str, body: bytes, headers: dict[str, str] | None, *, timeout: float) -> Message:
        """One message out and the first one back, whatever it says. Raises Unavailable or Denied."""
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

        Returns when the server knows. Raises Denied if it refuses.
        """

        async def receive(message: Message) -> None:
            async def produce() -> tuple[bytes, dict[str, str]]:
                reply = await handler(message.subject, codec.unpack(self.body(message)))
                return codec.pack(reply or {}), {}

            await self.answer(message, produce)

        return await self.listen(subject, receive, queue=queue)

    async def listen(
        self, subject: str, receive: Receiver, *, queue: str | None = None, at_once: int = _AT_ONCE
    ) -> Listening:
        """Hear messages as they come over the wire. Raises Denied or Unavailable."""
        listening = Listening(self, subject, receive, queue, at_once)
        self._listenings.append(listening)
        try:
            while True:
                link = await self.link(None)
                try:
                    async with self._attaching:
                        await listening.attach(link)
                    await link.flush()
                    break
                except (Unavailable, nats.errors.Error):
                    if link.alive:
                        raise
        except nats.errors.Error as error:
            self.remove(listening)
            raise BusError(f"{subject!r} cannot be subscribed to: {error}") from error
        except BaseException:
            self.remove(listening)
            raise
        if ("subscription", subject.lower()) in link.denied:
            self.remove(listening)
            raise Denied(f"the bus does not let {self.name} listen to {subject}")
        return listening

    def remove(self, listening: Listening) -> None:
        """Forget a subscription: it is not made again on the next link."""
        if listening in self._listenings:
            self._listenings.remove(listening)

    def body(self, message: Message) -> bytes:
        """A message's body, inflated if it was sent so. Raises Invalid."""
        return codec.expand(message.data, (message.headers or {}).get(codec.CONTENT_ENCODING))

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
                await (await self.link(1.0)).reply(message, body, {**headers, **encoding})
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

    async def _refuse(self, message: Message, failure: BusError) -> None:
        if not message.reply:
            self.counts["rejected"] += 1
            log.warning("bus.rejected subject=%s error=%s", message.subject, failure)
            return
        text = str(failure)
        headers = {ERROR_CODE: str(failure.code), ERROR_TEXT: " ".join(text.split())[:_HEADER_TEXT]}
        try:
            await (await self.link(1.0)).reply(message, codec.pack({"error": text}), headers)
        except BusError as error:
            log.warning("bus.unanswered subject=%s error=%s", message.subject, error)

    async def flush(self, timeout: float = 10.0) -> None:
        """Return when the server has all that was sent. Raises Denied if it refused a message, else Unavailable."""
        link = await self.link(timeout)
        await link.flush(timeout)
        refused = sorted(subject for what, subject in link.denied if what == "publish")
        if refused:
            link.denied -= {("publish", subject) for subject in refused}
            raise Denied(f"the bus does not let {self.name} send to {', '.join(refused)}")

    async def drain(self) -> None:
        """Stop every subscription and finish the handlers that run."""
        await asyncio.gather(*(listening.stop() for listening in list(self._listenings)))

    async def close(self) -> None:
        """Drain, then disconnect for good."""
        if self._closed:
            return
        await self.drain()
        self._closed = True
        self._up.set()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._link is not None:
            if self._link.alive:
                await asyncio.gather(self._link.flush(2.0), return_exceptions=True)
            await self._link.shut()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _supervise(self) -> None:
        """Connect, wait for the loss, connect again; until closed, at random intervals that grow to 10 s."""
        failures = 0
        # Not for ever: nats-py may swallow the cancellation that `close` sends into a dial.
        while not self._closed:
            server = self._next(failures)
            told = without_secrets(server)
            self._problems.setdefault(told, "no answer")
            try:
                self._link = link = await self._connect(server)
            except (BusError, nats.errors.Error, OSError) as error:
                failures += 1
                self._problems[told] = str(error)
                log.warning("bus.unreachable attempts=%d server=%s error=%s", failures, told, error)
            except Exception as error:
                failures += 1
                self._problems[told] = f"{type(error).__name__}, see the log"
                log.exception("bus.unreachable attempts=%d server=%s", failures, told)
            else:
                log.info("bus.connected server=%s", told)
                failures = 0
                self._up.set()
                link.when_lost(self, self._up.clear)
                await link.lost()
                self._problems[told] = str(link.problem or "the connection broke")
                self.counts["lost_connections"] += 1
                log.warning("bus.lost server=%s error=%s", told, self._problems[told])
                await link.shut()
            await asyncio.sleep(random.uniform(0, min(_FIRST_PAUSE * 2 ** min(failures, 10), _LONGEST_PAUSE)))

    def _next(self, failures: int) -> str:
        """Each server once, in a new order each time around."""
        if failures % len(self._servers) == 0:
            random.shuffle(self._servers)
        return self._servers[failures % len(self._servers)]

    async def _connect(self, server: str) -> Link:
        credentials = self._credentials if isinstance(self._credentials, Credentials) else self._credentials()
        link = await dial(server, self.name, credentials, self.counts)
        try:
            async with self._attaching:
                for listening in list(self._listenings):
                    await listening.attach(link)
            await link.flush()
        except BaseException:
            await link.shut()
            raise
        return link


async def connect(
    servers: Sequence[str],
    *,
    name: str,
    credentials: Credentials | Callable[[], Credentials] | None = None,
    timeout: float | None = None,
) -> Connection:
    """Connect to any of these servers (`nats://host:port`). Tries for ever, or for `timeout` seconds: then Unavailable.
    Raises Invalid for what is no server's address.

    `credentials` may be a function: it is asked anew for each connection, so that what expires can be renewed.
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
