"""The tasks of a service: how they fail, how they are stopped, and where they are when they are not."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """Ends the tasks of a service that was told to stop."""


class Tasks(asyncio.TaskGroup):
    """Tells of a failure when it happens: the group itself waits first for all its other tasks, maybe for ever."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        super().__init__()
        self._failed = failed

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """As every group's."""
        task = super().create_task(coro, name=name, context=context)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Stopped):
            self._failed(error)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of them, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def where() -> str:
    """Where the tasks wait that do not end: the innermost line of each that is not asyncio's own."""
    here = asyncio.current_task()
    places = {_waiting_at(task.get_coro()) for task in asyncio.all_tasks() if task is not here}
    return " ".join(sorted(places))


def _waiting_at(coroutine: object) -> str:
    place = "?"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if "/asyncio/" not in frame.f_code.co_filename:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "cr_await", None)
    return place
