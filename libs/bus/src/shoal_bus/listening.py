"""A subscription that outlives its links. Nodes carry this module."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from nats.aio.subscription import Subscription as NatsSubscription

from shoal_bus.client import Message, Receiver
from shoal_bus.errors import Unavailable
from shoal_bus.link import Link

log = logging.getLogger("shoal.bus")

_DRAIN_TIMEOUT = 8.0
_AT_ONCE = 256
_OF_A_STREAM = "$JS.ACK."
"""How the answer to a message begins that JetStream delivers."""


class Listening:
    """One subscription, with a task for each message and at most `_AT_ONCE` of them.

    On its way from one link to the next it is on both for a moment: a queue group still gets each message once, any
    other subscription may see one twice.
    """

    def __init__(
        self,
        subject: str,
        receive: Receiver,
        queue: str | None,
        *,
        counts: Counter[str],
        forget: Callable[["Listening"], None],
    ) -> None:
        self.subject = subject
        self._receive = receive
        self._queue = queue
        self._counts = counts
        self._forget = forget
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: dict[Link, NatsSubscription] = {}
        self._leaving = asyncio.Lock()
        self._stopped = False

    async def attach(self, link: Link) -> None:
        """Listen on this link too from now on; nothing happens once `stop` was called."""
        if link in self._subscriptions or self._stopped:
            return
        self._subscriptions = {other: part for other, part in self._subscriptions.items() if other.alive}
        self._subscriptions[link] = await link.subscribe(self.subject, self._arrived, self._queue)
        if self._stopped:  # meanwhile
            await self.leave(link)

    async def leave(self, link: Link) -> None:
        """Take what has come over this link, and no more."""
        async with self._leaving:
            subscription = self._subscriptions.pop(link, None)
            if subscription is not None and link.alive:
                try:
                    await link.leave(subscription)
                except Unavailable as error:
                    log.info("bus.drain subject=%s error=%s", self.subject, error)

    async def stop(self) -> None:
        """Take no more messages, finish the handlers that run (8 s at most)."""
        self._stopped = True
        self._forget(self)
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                async with self._leaving:
                    pass  # what is left already is left in full
                for link in list(self._subscriptions):
                    await self.leave(link)
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            log.warning("bus.drain subject=%s unfinished=%d", self.subject, len(self._tasks))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _arrived(self, message: Message) -> None:
        if message.reply.startswith(_OF_A_STREAM):
            self._refuse(message)
            return
        # nats-py waits for this before it takes the next message: so it does the least, and holds back when we are full
        await self._free.acquire()
        task = asyncio.create_task(self._handle(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse(self, message: Message) -> None:
        """Whoever may read a stream may have the server send what is stored there to any subject: it is no request."""
        self._counts["stored_refused"] += 1
        total = self._counts["stored_refused"]
        if total & (total - 1) == 0:
            told = "bus.stored_refused subject=%s stored=%.200r reply=%.200r total=%d (somebody has a stream sent here)"
            log.error(told, self.subject, message.subject, message.reply, total)

    async def _handle(self, message: Message) -> None:
        try:
            with message.link.in_use():  # where one may answer and no more, it must be where the question came from
                await self._receive(message)
        except Exception:
            self._counts["handler_errors"] += 1
            log.exception("bus.handler subject=%s", self.subject)
        finally:
            self._free.release()
