"""Bodies on the bus: msgpack of one model. Nodes use `pack` and `unpack` alone, without pydantic."""

import zlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgpack

from shoal_bus.errors import Invalid, TooLarge
from shoal_bus.limits import LARGEST, OURS, Limits

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

CONTENT_ENCODING = "Content-Encoding"
_DEFLATE = "deflate"
_SQUEEZE_ABOVE = 128 << 10

# github.com/msgpack/msgpack/blob/master/spec.md: octets of an item of fixed size, by its first octet; 0 for the others
_FIXED = [1] * 160 + [1 + n for n in range(32)] + [1, 0, 1, 1] + [0] * 6 + [5, 9, 2, 3, 5, 9, 2, 3, 5, 9] + [0] * 12
_FIXED += [1] * 32
_CHILDREN = [0] * 128 + [2 * n for n in range(16)] + list(range(16)) + [0] * 96
"""What a map or array of up to 15 holds, by its first octet."""
_COUNTED = {
    0xC4: (1, 1, 0), 0xC5: (2, 1, 0), 0xC6: (4, 1, 0), 0xD9: (1, 1, 0), 0xDA: (2, 1, 0), 0xDB: (4, 1, 0),
    0xDC: (2, 0, 1), 0xDD: (4, 0, 1), 0xDE: (2, 0, 2), 0xDF: (4, 0, 2),
}  # fmt: skip
"""Octets of the count behind the first octet; octets, and items, that follow for each that it counts."""


def pack(data: dict[str, Any]) -> bytes:
    """A map as msgpack; datetimes become ISO 8601 text."""
    packed: bytes = msgpack.packb(data, default=_plain)
    return packed


def unpack(body: bytes, limits: Limits = OURS) -> dict[str, Any]:
    """A map from msgpack. Raises Invalid for anything else, and beyond `limits`.

    What a few bytes may claim to hold is counted before anything is made of it: the worst of our bodies costs about
    100 MB for a moment, and 100 bytes for each of its own.
    """
    if len(body) > limits.octets:
        raise Invalid(f"the body has {len(body)} bytes; {limits.octets} are the most")
    _count(body, limits.items)
    try:
        data = msgpack.unpackb(body, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise Invalid(f"the body is not msgpack: {error}") from error
    if not isinstance(data, dict):
        raise Invalid(f"the body must be a map, not {type(data).__name__}")
    return data


def _count(body: bytes, most: int) -> None:
    """Walk over the items, nested or not. Raises Invalid if they are too many, or not as many as they claim to hold."""
    position, items, claimed, end = 0, 0, 0, len(body)
    while position < end and items <= most:
        first = body[position]
        items += 1
        if fixed := _FIXED[first]:
            position += fixed
            claimed += _CHILDREN[first]
        elif first in _COUNTED:
            width, octets, children = _COUNTED[first]
            position += 1 + width
            count = int.from_bytes(body[position - width : position], "big")
            position += count * octets
            claimed += count * children
        else:
            raise Invalid(f"the body is not msgpack as we use it: an item begins with 0x{first:02x}")
    if items > most:
        raise Invalid(f"the body has more than {most} items")
    if items != claimed + 1:
        raise Invalid(f"the body is not msgpack: {items} items, where {claimed + 1} should be")


def encode(message: "BaseModel") -> bytes:
    """A message as it stands on the bus."""
    return pack(message.model_dump(mode="python", by_alias=True))


def decode(body: bytes, message: type[M], limits: Limits = OURS) -> M:
    """The message in a body. Raises Invalid, naming the field that does not fit."""
    from pydantic import ValidationError

    data = unpack(body, limits)
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
    """A body as it is sent, and the header that says how: large ones are deflated, for servers limit a message to 1 MB
    unless told otherwise. Raises TooLarge for what `expand` would refuse.
    """
    if len(body) > LARGEST:
        raise TooLarge(f"{len(body)} bytes are more than a message may hold ({LARGEST})")
    if len(body) <= _SQUEEZE_ABOVE:
        return body, {}
    return zlib.compress(body, 1), {CONTENT_ENCODING: _DEFLATE}


def expand(body: bytes, encoding: str | None, limits: Limits = OURS) -> bytes:
    """The inverse of `squeeze`. Raises Invalid for an encoding we do not know or do not take, and beyond `limits`."""
    if encoding is None:
        return body
    if encoding != _DEFLATE:
        raise Invalid(f"the body's encoding is {encoding!r}; only {_DEFLATE!r} is known")
    if not limits.deflated:
        raise Invalid("the body is deflated, and is not to be: what nodes send is small")
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(body, limits.octets)
    except zlib.error as error:
        raise Invalid(f"the body is not {_DEFLATE}: {error}") from error
    if not inflater.eof:
        raise Invalid(f"the body is cut off, or larger than {limits.octets} bytes when inflated")
    return data
