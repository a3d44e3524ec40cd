"""What a node does to Python's logging, undone: it is a process of its own, a test is not."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_TAKEN = ("shoal.bus", "asyncio")


@contextmanager
def restored() -> Iterator[None]:
    """Give the loggers that execd takes their handlers and levels back at the end."""
    loggers = [logging.getLogger(name) for name in _TAKEN]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
