"""Blocking work as one call in a thread, given up when the task that waits for it is."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from shoal_image_builder.process import Cancel

T = TypeVar("T")


async def in_thread(work: Callable[[Cancel], T]) -> T:
    """What `work` gives. On cancellation its switch is thrown, and this ends when the work has."""
    cancel = Cancel()
    running = asyncio.get_running_loop().run_in_executor(None, work, cancel)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancel.throw()
        await asyncio.wait({running})
        running.exception()  # whatever it says now, nobody waits for it
        raise
