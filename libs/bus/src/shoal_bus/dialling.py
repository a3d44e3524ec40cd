"""How a link begins, and in what words it is told that one does not. Nodes carry this module."""

import asyncio
import os
import re
import ssl
import time
from collections import Counter

import nats.errors

from shoal_bus.client import CONNECT_TIMEOUT
from shoal_bus.credentials import Credentials
from shoal_bus.errors import Unavailable
from shoal_bus.link import Link

_SERVER_SAYS = re.compile(r"nats: '(.+)'")
_TLS = re.compile(r"\[SSL(?:: [A-Z0-9_]+)?\] (.+?) \(_ssl\.c:[0-9]+\)")
NOT_DECIDED = "the server speaks, and neither lets us in nor refuses us"
"""How the reason begins when whoever proves clients to the server, auth, does not answer it."""
_NOT_LET_IN = "authorization violation"


async def dial(server: str, name: str, credentials: Credentials, counts: Counter[str]) -> Link:
    """A link to one server, let in and answering. Raises Unavailable with the reason."""
    link = Link(server, counts, credentials)
    try:
        async with asyncio.timeout(3 * CONNECT_TIMEOUT):
            await link.open(name)
    except (OSError, nats.errors.Error, TimeoutError, ValueError, Unavailable) as error:
        told = _too_late(link) if isinstance(error, TimeoutError) and error.errno is None else in_words(error)
        await link.shut()
        raise Unavailable(told or type(error).__name__) from error
    except BaseException:
        await link.shut()
        raise
    if not link.alive:
        raise Unavailable(f"lost at once: {in_words(link.problem or 'no reason given')}")
    return link


def _too_late(link: Link) -> str:
    """That nothing came in time, and whether the server decides nothing or says nothing."""
    told = NOT_DECIDED if link.waits_at_the_door else "no answer"
    return f"{told} within {time.monotonic() - link.opened:.0f} s"


def in_words(problem: Exception | str) -> str:
    """What asyncio, the system and the server say of a connection that failed, without their numbers and quotes:
    `Connection refused`.
    """
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {problem.verify_message.rstrip('.')}"
    told = str(problem)
    if said := _SERVER_SAYS.fullmatch(told):
        hint = " (it lets nobody in with this key, token or password)" if said[1].lower() == _NOT_LET_IN else ""
        return f"the server says: {said[1]}{hint}"
    if tls := _TLS.fullmatch(told):
        return f"TLS: {tls[1]}"
    told = re.sub(r"\[Errno ([0-9]+)\] Connect call failed \(.*?\)", lambda found: os.strerror(int(found[1])), told)
    return re.sub(r"\[Errno -?[0-9]+\] ", "", told)
