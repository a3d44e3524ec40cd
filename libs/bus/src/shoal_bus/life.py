"""The life of a link: in use, retired, lost; who wants to be told of it, and who still uses it. Nodes carry this."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import nats.errors

from shoal_bus.errors import BusError, NotPermitted, Unavailable


class Retired(Unavailable):
    """This link still works and is to be left: another has taken its place."""

    def __init__(self) -> None:
        super().__init__("the link is renewed")


class Life:
    """What a `Link` is beside its wire."""

    def __init__(self) -> None:
        self._lost = asyncio.Event()
        self._retired = False
        self._uses = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._watchers: dict[object, tuple[str, Callable[[BusError], None]]] = {}

    @property
    def alive(self) -> bool:
        """Whether it can still be used."""
        return not self._lost.is_set()

    async def lost(self) -> None:
        """Return when the link is lost."""
        await self._lost.wait()

    def watch(self, key: object, call: Callable[[BusError], None], *, publishes: str = "") -> None:
        """Have `call` told, until `forget(key)`, that the link is lost (Unavailable) or to be left (Retired), at once
        if it is so already; and that we may not publish to the subject `publishes` (NotPermitted).
        """
        self._watchers[key] = (publishes.lower(), call)
        if not self.alive:
            call(Unavailable("the connection is lost"))
        elif self._retired:
            call(Retired())

    def forget(self, key: object) -> None:
        """See `watch`."""
        self._watchers.pop(key, None)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While something is awaited that must come or go over this link: see `unused`."""
        self._uses += 1
        if self.alive:
            self._unused.clear()
        try:
            yield
        finally:
            self._uses -= 1
            if not self._uses:
                self._unused.set()

    def retire(self) -> None:
        """Tell those who watch it that the link is to be left."""
        self._retired = True
        self._tell(Retired())

    async def unused(self) -> None:
        """Return when nobody uses the link any more, or when it is lost."""
        await self._unused.wait()

    async def unless_lost(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for what only the server's answer ends: nats-py would do so beyond the end of the connection. Raises
        Unavailable.
        """
        doing, lost = asyncio.create_task(work), asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({doing, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Unavailable("the connection to the bus is lost")
            doing.result()
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"the bus does not answer: {error}") from error
        finally:
            for task in (doing, lost):
                task.cancel()
            await asyncio.gather(doing, lost, return_exceptions=True)

    def end(self) -> None:
        """It is lost, now or since long."""
        if self._lost.is_set():
            return
        self._lost.set()
        self._unused.set()
        self._tell(Unavailable("the connection is lost"))

    def refused(self, subject: str) -> None:
        """The server has refused a message to this subject (in lower case)."""
        for publishes, call in list(self._watchers.values()):
            if publishes == subject:
                call(NotPermitted(f"the bus does not let us send to {subject}"))

    def _tell(self, news: BusError) -> None:
        for _, call in list(self._watchers.values()):
            call(news)
