"""Which link is in use: the first, the next when it is lost, and the next before its credentials expire.

A renewal loses nothing: every subscription is on the new link before it leaves the old one, and the old one lives, as
long as the server lets it, until whoever waits for something that comes over it has it. Nodes carry this module.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence

import nats.errors

from shoal_bus.credentials import Credentials
from shoal_bus.dialling import dial, in_words
from shoal_bus.errors import BusError, NotPermitted, Unavailable
from shoal_bus.link import Link
from shoal_bus.listening import Listening
from shoal_bus.servers import without_secrets

log = logging.getLogger("shoal.bus")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0
_RENEWED_AT = (0.7, 0.8)
"""The part of a lifetime after which a link is renewed, at random: those who came together shall not come again so."""


class Links:
    """Makes links to any of these servers from `start` to `close`, and moves the subscriptions to each."""

    def __init__(
        self,
        servers: Sequence[str],
        name: str,
        credentials: Credentials | Callable[[], Credentials],
        counts: Counter[str],
    ) -> None:
        self._name = name
        self._counts = counts
        self._servers = list(servers)
        self._credentials = credentials
        self._listenings: list[Listening] = []
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._closed = False
        self._attaching = asyncio.Lock()
        self._supervisor: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._problems: dict[str, str] = {}
        """What was wrong last with each server that was tried."""

    @property
    def connected(self) -> bool:
        """Whether the server can be reached, as far as we know."""
        return self._link is not None and self._link.alive

    def start(self) -> None:
        """Begin to connect."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"bus {self._name}")

    async def current(self, timeout: float | None = None) -> Link:
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

    async def add(self, listening: Listening) -> None:
        """Listen on this link and on all that follow. Raises NotPermitted, Unavailable, BusError."""
        self._listenings.append(listening)
        try:
            link = await self._attach(listening)
        except nats.errors.Error as error:
            self.remove(listening)
            raise BusError(f"{listening.subject!r} cannot be subscribed to: {error}") from error
        except BaseException:
            self.remove(listening)
            raise
        if ("subscription", listening.subject.lower()) in link.denied:
            self.remove(listening)
            raise NotPermitted(f"the bus does not let {self._name} listen to {listening.subject}")

    def remove(self, listening: Listening) -> None:
        """Forget a subscription: it is not made again on the next link."""
        if listening in self._listenings:
            self._listenings.remove(listening)

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
        tasks = [task for task in (self._supervisor, *self._leaving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            self._link.forget(self)
            if self._link.alive:
                await asyncio.gather(self._link.flush(2.0), return_exceptions=True)
            await self._link.shut()

    async def _attach(self, listening: Listening) -> Link:
        """The link where the server knows of a subscription."""
        while True:
            link = await self.current()
            try:
                async with self._attaching:
                    if link is not self._link:
                        continue
                    await listening.attach(link)
                await link.flush()
            except (Unavailable, nats.errors.Error):
                if link.alive:
                    raise
            else:
                return link

    async def _supervise(self) -> None:
        """Connect, wait until the link is lost or to be renewed, connect again; until closed, at random intervals that
        grow to 10 s.
        """
        failures = 0
        # Not for ever: nats-py may swallow the cancellation that `close` sends into a dial.
        while not self._closed:
            server = self._next(failures)
            told = without_secrets(server)
            self._problems.setdefault(told, "no answer")
            try:
                link = await self._connect(server)
            except (BusError, nats.errors.Error, OSError) as error:
                failures += 1
                self._problems[told] = str(error)
                log.warning("bus.unreachable attempts=%d server=%s error=%s", failures, told, error)
            except Exception as error:
                failures += 1
                self._problems[told] = f"{type(error).__name__}, see the log"
                log.exception("bus.unreachable attempts=%d server=%s", failures, told)
            else:
                failures = 0
                await self._due(link)
                if link.alive:
                    continue
            await asyncio.sleep(random.uniform(0, min(_FIRST_PAUSE * 2 ** min(failures, 10), _LONGEST_PAUSE)))

    def _next(self, failures: int) -> str:
        """Each server once, in a new order each time around."""
        if failures % len(self._servers) == 0:
            random.shuffle(self._servers)
        return self._servers[failures % len(self._servers)]

    async def _connect(self, server: str) -> Link:
        credentials = self._credentials if isinstance(self._credentials, Credentials) else self._credentials()
        link = await dial(server, self._name, credentials, self._counts)
        try:
            async with self._attaching:
                for listening in list(self._listenings):
                    await listening.attach(link)
                await link.flush()
                self._take(link)
        except BaseException:
            await link.shut()
            raise
        return link

    def _take(self, link: Link) -> None:
        """Use this link from now on, and let go of the one before."""
        before, self._link = self._link, link
        if before is not None and before.alive:
            log.info("bus.renewed server=%s", link.server)
            before.forget(self)
            self._leave(before)
        else:
            log.info("bus.connected server=%s", link.server)
        self._up.set()
        link.watch(self, lambda _: self._lost(link))

    async def _due(self, link: Link) -> None:
        """Return when the link is lost, or its credentials have used up most of their lifetime."""
        due = None if link.lifetime is None else link.opened + random.uniform(*_RENEWED_AT) * link.lifetime
        try:
            async with asyncio.timeout_at(due):
                await link.lost()
        except TimeoutError:
            return

    def _lost(self, link: Link) -> None:
        self._up.clear()
        self._problems[link.server] = in_words(link.problem or "the connection broke")
        self._counts["lost_connections"] += 1
        log.warning("bus.lost server=%s error=%s", link.server, self._problems[link.server])
        self._leave(link)

    def _leave(self, link: Link) -> None:
        task = asyncio.create_task(self._let_go(link))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _let_go(self, link: Link) -> None:
        """Take what has come over a link, let finish whoever uses it, as long as it may last, and close it."""
        try:
            if link.alive:
                link.retire()
                async with asyncio.timeout_at(link.opened + (link.lifetime or 0.0)):
                    await asyncio.gather(*(listening.leave(link) for listening in list(self._listenings)))
                    await link.finished()
        except (BusError, nats.errors.Error, OSError) as error:
            log.info("bus.left_early server=%s error=%s", link.server, error or type(error).__name__)
        finally:
            await link.shut()
