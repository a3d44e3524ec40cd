"""JetStream's own interface, as far as we use it: JSON requests under `$JS.API`, and messages that are acknowledged."""

import asyncio
import json
import logging
import random
import secrets
from collections.abc import Mapping
from typing import Any

from shoal_bus import trace
from shoal_bus.connection import Connection
from shoal_bus.errors import BusError, Conflict, Unavailable

log = logging.getLogger("shoal.bus")

_TIMEOUT = 5.0
_TRIES = 3
_PAUSE = 0.25
_BUSY = 503
_NOT_FOUND = {10014, 10037, 10059}
"""No such consumer, message, stream."""
_WRONG_LAST_SEQUENCE = 10071
_STORE_FAILED = 10077
"""Whatever kept a message from being stored: only the text tells which limit it was."""
_INCOMPLETE_BATCH = 10176
"""Parts of an atomic batch were not stored."""
_DISK_FULL = {_STORE_FAILED, _INCOMPLETE_BATCH}
"""What the server says when its disk has no room, among other troubles of its store."""


class JetStreamError(BusError):
    """The server refused; `err_code` is JetStream's own number for it."""

    def __init__(self, what: str, error: Mapping[str, Any]) -> None:
        self.err_code = int(error.get("err_code", 0))
        told = str(error.get("description", "no reason given"))
        full = self.err_code in _DISK_FULL and "maximum" not in told  # those are limits of the stream
        super().__init__(f"{what}: {told} ({self.err_code}){'; is the disk of the head full?' if full else ''}")

    @property
    def not_found(self) -> bool:
        """Whether what was asked for is not there."""
        return self.err_code in _NOT_FOUND

    @property
    def subject_full(self) -> bool:
        """Whether the message's subject holds as many messages as it may."""
        return self.err_code == _STORE_FAILED and "per subject" in str(self)


async def api(connection: Connection, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Ask `$JS.API.<subject>`, thrice if nobody answers (a server that starts). Raises JetStreamError, Unavailable."""
    return await _asked(connection, f"$JS.API.{subject}", json.dumps(request).encode() if request else b"", None)


async def store(connection: Connection, subject: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Publish into a stream and return the message's sequence once it is stored.

    Three tries with one message id: a try whose answer was lost is not stored twice. Raises Conflict, JetStreamError,
    and Unavailable if the outcome is unknown.
    """
    sent = {"traceparent": trace.header(), "Nats-Msg-Id": secrets.token_hex(12), **headers}
    return int((await _asked(connection, subject, body, sent))["seq"])


async def _asked(connection: Connection, subject: str, body: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
    for attempt in range(_TRIES):
        try:
            reply = await connection.exchange(subject, body, headers, timeout=_TIMEOUT)
            return checked(subject, reply.data)
        except Unavailable:
            if attempt + 1 == _TRIES:
                raise
        await asyncio.sleep(random.uniform(_PAUSE / 2, _PAUSE) * 2**attempt)
    raise AssertionError("unreachable")


async def make_consumer(connection: Connection, stream: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Make a consumer that has a name and a filter; one that is there as wanted stays. Raises as `api`.

    Both stand in the subject (ADR-37), where permissions can name them; the server refuses a body that says otherwise.
    """
    subject = f"CONSUMER.CREATE.{stream}.{config['name']}.{config['filter_subject']}"
    return await api(connection, subject, {"stream_name": stream, "config": config})


def checked(what: str, data: bytes) -> dict[str, Any]:
    """An answer of JetStream as a map. Raises Conflict, Unavailable or JetStreamError for the error that it may be."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise BusError(f"{what}: the answer is not one of JetStream's: {data[:80]!r}")
    error = answer.get("error")
    if not isinstance(error, dict):
        return answer
    if error.get("err_code") == _WRONG_LAST_SEQUENCE:
        raise Conflict(f"{what}: changed meanwhile: {error.get('description')}")
    if error.get("code") == _BUSY and error.get("err_code") != _STORE_FAILED:
        raise Unavailable(f"{what}: {error.get('description')}")
    raise JetStreamError(what, error)
