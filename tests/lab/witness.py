"""Hears every boot event of a head, from its first one on, whatever becomes of its bus meanwhile."""

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lab.inside import inside
from lab.space import LabError, Namespace
from shoal_cli.session import Access, over_nats
from shoal_model.messages import BootEvent
from shoal_model.subjects import BOOT_EVENTS

_START = 20.0
_TICK = 0.2


class Witness:
    """An operator on the bus in a thread of its own, which lives in the head's network. Use it as a context manager."""

    def __init__(self, space: Namespace, access: Access) -> None:
        self._space, self._access = space, access
        self._heard: list[BootEvent] = []
        self._change = threading.Condition()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_START) or self._failure is not None:
            raise LabError(f"nobody witnesses the boots: {self._failure!r}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._loop is not None and self._listening is not None:
            self._loop.call_soon_threadsafe(self._listening.cancel)
        self._thread.join(_START)

    @property
    def count(self) -> int:
        """How many events were heard so far: a place to begin from in `events` and `wait`."""
        return len(self._heard)

    def events(self, node: str, since: int = 0) -> list[BootEvent]:
        """The events of a node, in the order in which the head stored them."""
        return [event for event in self._heard[since:] if event.node == node]

    def wait(
        self,
        wanted: Callable[[BootEvent], bool],
        *,
        since: int,
        seconds: float,
        alive: Callable[[], bool] = lambda: True,
    ) -> BootEvent | None:
        """The first event behind the first `since` ones that is wanted; None if `seconds` went by, or nothing was
        `alive` any more.
        """
        deadline, place = time.monotonic() + seconds, since
        with self._change:
            while True:
                for event in self._heard[place:]:
                    if wanted(event):
                        return event
                place = len(self._heard)
                if self._failure is not None:
                    raise LabError(f"the witness of the boots failed: {self._failure!r}")
                if time.monotonic() > deadline or not alive():
                    return None
                self._change.wait(_TICK)

    def _run(self) -> None:
        try:
            with inside(self._space):
                asyncio.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = asyncio.create_task(self._listen())
        await self._listening

    async def _listen(self) -> None:
        async with over_nats(self._access)() as bus, bus.events(BOOT_EVENTS, BootEvent, since=0) as events:
            self._ready.set()
            async for _, _, event in events:
                with self._change:
                    self._heard.append(event)
                    self._change.notify_all()
