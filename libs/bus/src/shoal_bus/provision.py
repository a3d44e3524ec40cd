"""Shoal's streams and buckets: created by one service, awaited by the others."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from shoal_bus import streams
from shoal_bus.connection import Connection
from shoal_bus.errors import Unavailable
from shoal_bus.jetstream import JetStreamError, api
from shoal_bus.reader import last_sequence
from shoal_model import subjects
from shoal_model.permissions import OWNERS

log = logging.getLogger("shoal.bus")

_NAME_IN_USE = 10058
_NO_ROOM = 10047
_LEAST_ROOM = 32 << 20
_CREATE_WITHIN = 60.0
_CREATE_PAUSE = 0.5
_AWAIT_PAUSE, _AWAIT_LONGEST_PAUSE = 0.1, 5.0
_STATE = streams.bucket(subjects.STATE_BUCKET)
_FOR_ALL = (streams.EVENTS, streams.JOBS, _STATE)
"""What every service may ask about. Whoever does not use the others may not even ask whether they are there."""


async def create_all(connection: Connection, secrets: Mapping[str, str]) -> None:
    """Have all that is needed as it is to be. Raises BusError.

    `secrets` are those of the buckets that are ours alone, by bucket. Who has some leaves to others what is theirs.
    """
    buckets = [streams.bucket(bucket, secrets.get(bucket)) for bucket in secrets or OWNERS]
    for config in (streams.EVENTS, streams.JOBS, *buckets, _STATE, streams.TOLD):
        await made(connection, config)


async def made(connection: Connection, config: Mapping[str, Any]) -> None:
    """Create what is missing, update what is different; tried for a minute while nobody answers. Raises BusError."""
    deadline = time.monotonic() + _CREATE_WITHIN
    while True:
        try:
            await _ensure(connection, config)
            return
        except Unavailable as error:
            if time.monotonic() > deadline:
                raise
            log.warning("bus.prepare stream=%s error=%s", config["name"], error)
            await asyncio.sleep(_CREATE_PAUSE)


async def await_all(connection: Connection) -> None:
    """Return when everything is there that all services may use. Raises BusError."""
    for config in _FOR_ALL:
        await awaited(connection, config["name"])


async def awaited(connection: Connection, stream: str, pattern: str | None = None) -> None:
    """Return when a stream is there that somebody else creates. Raises NotPermitted, JetStreamError.

    `pattern` is what we may read of one that its writer alone may ask about.
    """
    attempts = 0
    while (missing := await _missing(connection, stream, pattern)) is not None:
        attempts += 1
        if attempts & (attempts - 1) == 0:
            told = "bus.awaits stream=%s attempts=%d error=%s (registry creates it: does it run?)"
            log.warning(told, stream, attempts, missing)
        await asyncio.sleep(min(_AWAIT_PAUSE * 2 ** min(attempts, 10), _AWAIT_LONGEST_PAUSE))


async def _missing(connection: Connection, stream: str, pattern: str | None) -> str | None:
    """Why a stream cannot be used yet, or None if it can."""
    try:
        await (
            api(connection, f"STREAM.INFO.{stream}") if pattern is None else last_sequence(connection, stream, pattern)
        )
    except Unavailable as error:
        return str(error)
    except JetStreamError as error:
        if not error.not_found:
            raise
        return "it does not exist"
    return None


async def _ensure(connection: Connection, config: Mapping[str, Any]) -> None:
    """Make a stream, or bring one that exists up to date; what we say nothing of stays as it is there."""
    name = config["name"]
    try:
        there = (await api(connection, f"STREAM.INFO.{name}"))["config"]
    except JetStreamError as error:
        if not error.not_found:
            raise
        await _create(connection, config)
        return
    for wanted in (config, {**config, "max_bytes": there.get("max_bytes")}):
        if all(there.get(field) == value for field, value in wanted.items() if value or there.get(field)):
            return
        try:
            await api(connection, f"STREAM.UPDATE.{name}", {**there, **wanted})
            return
        except JetStreamError as error:
            if error.err_code != _NO_ROOM:
                raise


async def _create(connection: Connection, config: Mapping[str, Any]) -> None:
    """The server sets `max_bytes` aside at once: where the disk is smaller than we wish, a smaller stream will do."""
    room = config.get("max_bytes", 0)
    while True:
        try:
            await api(connection, f"STREAM.CREATE.{config['name']}", {**config, "max_bytes": room} if room else config)
            return
        except JetStreamError as error:
            if error.err_code == _NAME_IN_USE:
                return  # another replica was faster, with another idea of the room
            if error.err_code != _NO_ROOM or room < _LEAST_ROOM:
                raise
            log.warning("bus.no_room stream=%s bytes=%d: trying with less", config["name"], room)
            room //= 4
