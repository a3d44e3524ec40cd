"""Bodies on the bus: msgpack of one model. Nodes use `pack` and `unpack` alone, without pydantic."""

import zlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgpack

from shoal_bus.errors import Invalid

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

CONTENT_ENCODING = "Content-Encoding"
_DEFLATE = "deflate"
_MAX_ITEMS = 1_000_000
_SQUEEZE_ABOVE = 128 << 10
_EXPAND_AT_MOST = 64 << 20


def pack(data: dict[str, Any]) -> bytes:
    """A map as msgpack; datetimes become ISO 8601 text."""
    packed: bytes = msgpack.packb(data, default=_plain)
    return packed


def unpack(body: bytes) -> dict[str, Any]:
    """A map from msgpack. Raises Invalid for anything else; never allocates more than the body's own size justifies."""
    try:
        data = msgpack.unpackb(
            body,
            strict_map_key=True,
            max_str_len=len(body),
            max_bin_len=len(body),
            max_array_len=min(len(body), _MAX_ITEMS),
            max_map_len=min(len(body), _MAX_ITEMS),
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise Invalid(f"the body is not msgpack: {error}") from error
    if not isinstance(data, dict):
        raise Invalid(f"the body must be a map, not {type(data).__name__}")
    return data


def encode(message: "BaseModel") -> bytes:
    """A message as it stands on the bus."""
    return pack(message.model_dump(mode="python", by_alias=True))


def decode(body: bytes, message: type[M]) -> M:
    """The message in a body. Raises Invalid, naming the field that does not fit."""
    from pydantic import ValidationError

    data = unpack(body)
    try:
        return message.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise Invalid(f"{message.__name__}: {where}: {first['msg']}") from error


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot stand in a message")


def squeeze(body: bytes) -> tuple[bytes, dict[str, str]]:
    """A body as it is sent, and the header that says how: large ones are deflated, for a message is limited to 1 MB."""
    if len(body) <= _SQUEEZE_ABOVE:
        return body, {}
    return zlib.compress(body, 1), {CONTENT_ENCODING: _DEFLATE}


def expand(body: bytes, encoding: str | None) -> bytes:
    """The inverse of `squeeze`. Raises Invalid for an encoding we do not know, and for more than 64 MiB."""
    if encoding is None:
        return body
    if encoding != _DEFLATE:
        raise Invalid(f"the body's encoding is {encoding!r}; only {_DEFLATE!r} is known")
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(body, _EXPAND_AT_MOST)
    except zlib.error as error:
        raise Invalid(f"the body is not {_DEFLATE}: {error}") from error
    if not inflater.eof:
        raise Invalid(f"the body is cut off, or larger than {_EXPAND_AT_MOST} bytes when inflated")
    return data
