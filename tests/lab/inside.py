"""This thread itself in the network of a namespace: what it opens and starts there, stays there."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lab.behind import Behind
from lab.space import Namespace

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(space: Namespace | Behind) -> Iterator[None]:
    """Sockets opened and programs started by this thread are in the network of `space` (setns(2)); afterwards no more.

    So a bus and a server made by the usual fixtures meet the services that run in the namespace.
    """
    target = space.pid
    ours = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        _enter(f"/proc/{target}/ns/net")
        yield
    finally:
        _set(ours)
        os.close(ours)


def _enter(path: str) -> None:
    theirs = os.open(path, os.O_RDONLY)
    try:
        _set(theirs)
    finally:
        os.close(theirs)


def _set(network: int) -> None:
    if _libc.setns(network, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
