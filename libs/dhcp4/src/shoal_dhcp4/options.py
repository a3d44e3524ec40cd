"""Options as bytes: code, length, value; long ones in pieces (RFC 3396), and plain encapsulated ones.

A set of options is a mapping from code to value, in the order in which the codes first appear.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from shoal_dhcp4.codes import Option
from shoal_dhcp4.errors import LocalProtocolError, RemoteProtocolError

_MAX_PIECE: Final = 255
_PAD, _END = int(Option.PAD), int(Option.END)


def read(area: bytes, into: dict[int, bytes], where: str = "options") -> None:
    """Add the options of one area to `into`; a code that is there already is continued (RFC 3396, section 5).

    The end mark may be missing, as it is in packets of some firmware. Raises RemoteProtocolError for an option that
    reaches beyond the area, which is called `where` in the error.
    """
    position, size = 0, len(area)
    while position < size:
        code = area[position]
        if code == _PAD:
            position += 1
            continue
        if code == _END:
            return
        start = position + 2
        end = start + area[position + 1] if start <= size else size + 1
        if end > size:
            raise RemoteProtocolError(f"option {code} reaches beyond the end of {where}")
        value = area[start:end]
        into[code] = into[code] + value if code in into else value
        position = end


def write(options: Iterable[tuple[int, bytes]]) -> bytes:
    """Options without an end mark; values above 255 bytes in several pieces. Raises LocalProtocolError for codes
    that cannot carry a value.
    """
    area = bytearray()
    for code, value in options:
        if not _PAD < code < _END:
            raise LocalProtocolError(f"option code {code} carries no value: expected 1 to 254")
        while len(value) > _MAX_PIECE:
            area.append(code)
            area.append(_MAX_PIECE)
            area += value[:_MAX_PIECE]
            value = value[_MAX_PIECE:]
        area.append(code)
        area.append(len(value))
        area += value
    return bytes(area)


def written_size(value: bytes) -> int:
    """How many bytes `write` needs for one option with this value."""
    return len(value) + 2 * max(1, -(-len(value) // _MAX_PIECE))


def encapsulate(options: Mapping[int, bytes]) -> bytes:
    """Options inside an option, closed by an end mark: 43 as PXE has it, iPXE's 175."""
    return write(options.items()) + bytes((_END,))


def suboptions(value: bytes) -> dict[int, bytes]:
    """Relay agent sub-options (RFC 3046, section 2.0): no padding, no end mark, any code.

    Raises RemoteProtocolError for a sub-option that reaches beyond the value.
    """
    found: dict[int, bytes] = {}
    position = 0
    while position < len(value):
        start = position + 2
        end = start + value[position + 1] if start <= len(value) else len(value) + 1
        if end > len(value):
            raise RemoteProtocolError(f"relay sub-option {value[position]} reaches beyond the end of option 82")
        found[value[position]] = value[start:end]
        position = end
    return found
