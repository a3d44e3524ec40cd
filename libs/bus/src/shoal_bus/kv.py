"""Buckets on the real bus: a stream laid out as the NATS clients' key-value stores are (ADR-8), and atomic batches."""

import base64
import binascii
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from shoal_bus import jetstream, streams
from shoal_bus.api import Entry, Write
from shoal_bus.connection import Connection, Message, NoResponders
from shoal_bus.errors import BusError, Unavailable
from shoal_bus.jetstream import JetStreamError
from shoal_bus.link import Link
from shoal_bus.reader import read
from shoal_model.permissions import write_subject

_OPERATION = "KV-Operation"
_MARKER = "Nats-Marker-Reason"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_DELETE = {_OPERATION: "DEL"}
_COMMIT_TIMEOUT = 10.0
_COMMIT_TRIES = 3


class NatsStore:
    """See `api.Store`."""

    def __init__(self, connection: Connection, bucket: str, secret: str | None = None) -> None:
        self._connection = connection
        self._bucket = bucket
        self._stream = streams.stream_of(bucket)
        self._prefix = f"$KV.{bucket}."
        self._written = write_subject(bucket, secret)

    async def get(self, key: str) -> Entry | None:
        request = {"last_by_subj": self._prefix + streams.key(key)}
        try:
            answer = await jetstream.api(self._connection, f"STREAM.MSG.GET.{self._stream}", request)
        except JetStreamError as error:
            if error.not_found:
                return None
            raise
        message = answer["message"]
        if _is_deleted(_headers(message.get("hdrs", ""))):
            return None
        return Entry(key, base64.b64decode(message.get("data", "")), int(message["seq"]))

    async def load(self) -> Sequence[Entry]:
        entries: dict[str, Entry] = {}
        async with self.watch() as changes:
            async for entry in changes:
                if entry is None:
                    break
                entries[entry.key] = entry
        return sorted(entries.values(), key=lambda entry: entry.revision)

    async def put(self, key: str, value: bytes, *, expected: int | None = None) -> int:
        headers = {} if expected is None else {_EXPECTED: str(expected)}
        return await jetstream.store(self._connection, self._subject(key), value, headers)

    async def delete(self, key: str) -> None:
        if await self.get(key) is not None:
            await jetstream.store(self._connection, self._subject(key), b"", _DELETE)

    async def commit(self, writes: Sequence[Write]) -> int:
        streams.check(writes)
        for attempt in range(1, _COMMIT_TRIES + 1):
            try:
                return await self._commit(writes)
            except NoResponders:
                if attempt == _COMMIT_TRIES:
                    raise
        raise AssertionError("unreachable")

    async def _commit(self, writes: Sequence[Write]) -> int:
        link = await self._connection.link(_COMMIT_TIMEOUT)
        with link.in_use():
            reply = await self._send(link, writes)
        return int(jetstream.checked(f"bucket {self._bucket}", reply.data)["seq"])

    async def _send(self, link: Link, writes: Sequence[Write]) -> Message:
        batch = secrets.token_hex(16)
        for number, write in enumerate(writes, 1):
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            if write.expected is not None:
                headers[_EXPECTED] = str(write.expected)
            if write.value is None:
                headers.update(_DELETE)
            subject, body = self._subject(write.key), write.value or b""
            if number < len(writes):
                await link.publish(subject, body, headers)
        headers["Nats-Batch-Commit"] = "1"
        try:
            return await link.request(subject, body, headers, _COMMIT_TIMEOUT)
        except TimeoutError:
            raise Unavailable(
                f"bucket {self._bucket}: {len(writes)} writes were sent, not confirmed: read one of them to learn more"
            ) from None

    def watch(self, *, after: int = 0) -> AbstractAsyncContextManager[AsyncIterator[Entry | None]]:
        return self._watch(after)

    @asynccontextmanager
    async def _watch(self, after: int) -> AsyncIterator[AsyncIterator[Entry | None]]:
        async with aclosing(self._entries(after)) as entries:
            yield entries

    async def _entries(self, after: int) -> AsyncGenerator[Entry | None]:
        messages = read(self._connection, self._stream, streams.keys(self._bucket), after=after, latest=after == 0)
        async with aclosing(messages):
            async for message in messages:
                if message is None:
                    yield None
                    continue
                value = None if _is_deleted(message.headers) else message.body
                yield Entry(message.subject.removeprefix(self._prefix), value, message.sequence)

    def _subject(self, key: str) -> str:
        """Where a key is written."""
        return f"{self._written}.{streams.key(key)}"


def _is_deleted(headers: Mapping[str, str]) -> bool:
    return headers.get(_OPERATION) in ("DEL", "PURGE") or _MARKER in headers


def _headers(encoded: str) -> dict[str, str]:
    """The headers of a message that `STREAM.MSG.GET` gave: base64 of `NATS/1.0`, then lines."""
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
    except binascii.Error as error:
        raise BusError(f"the server sent headers that are no base64: {error}") from error
    pairs = (line.partition(":") for line in text.split("\r\n")[1:])
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}
