"""The six packets of TFTP, to and from bytes (RFC 1350 section 5, RFC 2347)."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

Address = tuple[str, int]
"""An IPv4 address and a UDP port, which is the transfer identifier (TID) of one side."""

_HEADER = struct.Struct("!HH")
_OPCODE = struct.Struct("!H")


class Opcode(IntEnum):
    """The first two octets of every packet."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class ErrorCode(IntEnum):
    """Codes of ERROR packets (RFC 1350 appendix, RFC 2347)."""

    UNDEFINED = 0
    FILE_NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TRANSFER_ID = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7
    OPTION_REFUSED = 8


class Malformed(ValueError):
    """The other side sent bytes that are no TFTP packet; the message tells what is wrong with them."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """RRQ. Bytes of the name that are not UTF-8 are kept as surrogates; mode and option names are lower-case."""

    filename: str
    mode: str = "octet"
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """WRQ, in the form of RRQ."""

    filename: str
    mode: str = "octet"
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Data:
    """DATA: a block number as it stands on the wire (0 to 65535) and at most one block of content."""

    block: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """ACK of the block with this number on the wire, and of all before it."""

    block: int


@dataclass(frozen=True, slots=True)
class Error:
    """ERROR: ends a transfer. `code` may be one that no RFC names."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class OptionAck:
    """OACK: the options that the server grants, with the values that hold."""

    options: Mapping[str, str]


Packet = ReadRequest | WriteRequest | Data | Ack | Error | OptionAck


def parse(data: bytes) -> Packet:
    """The packet in a datagram. Raises Malformed for anything else."""
    if len(data) < 2:
        raise Malformed(f"a datagram of {len(data)} octets is no TFTP packet")
    (opcode,) = _OPCODE.unpack_from(data)
    match opcode:
        case Opcode.ACK:
            # Some clients pad their ACKs; the number alone counts.
            return Ack(_block_number(data))
        case Opcode.DATA:
            return Data(_block_number(data), data[4:])
        case Opcode.RRQ:
            return ReadRequest(*_request(data))
        case Opcode.WRQ:
            return WriteRequest(*_request(data))
        case Opcode.ERROR:
            # The final NUL of the message is missing from what some firmware sends.
            return Error(_block_number(data), _text(data[4:].partition(b"\0")[0]))
        case Opcode.OACK:
            return OptionAck(_options(_strings(data)))
    raise Malformed(f"opcode {opcode} is none of TFTP's (1 to 6)")


def encode(packet: Packet) -> bytes:
    """The packet as it goes out. Raises ValueError if a string in it contains NUL."""
    match packet:
        case Data(block, content):
            return _HEADER.pack(Opcode.DATA, block) + content
        case Ack(block):
            return _HEADER.pack(Opcode.ACK, block)
        case ReadRequest(filename, mode, options):
            return _OPCODE.pack(Opcode.RRQ) + _join([filename, mode, *_flat(options)])
        case WriteRequest(filename, mode, options):
            return _OPCODE.pack(Opcode.WRQ) + _join([filename, mode, *_flat(options)])
        case Error(code, message):
            return _HEADER.pack(Opcode.ERROR, code) + _join([message])
        case OptionAck(options):
            return _OPCODE.pack(Opcode.OACK) + _join(_flat(options))


def data_packet(block: int, content: memoryview) -> bytes:
    """A DATA packet from a view of the content, without an object in between: this is the path of every block."""
    return b"".join((_HEADER.pack(Opcode.DATA, block), content))


def _block_number(data: bytes) -> int:
    if len(data) < 4:
        raise Malformed(f"{Opcode(data[1]).name} ends after {len(data)} octets, before its second field")
    number: int = _HEADER.unpack_from(data)[1]
    return number


def _strings(data: bytes) -> list[bytes]:
    """The NUL-terminated strings behind the opcode."""
    parts = data[2:].split(b"\0")
    if parts.pop():
        raise Malformed(f"{Opcode(data[1]).name}: its last string does not end in NUL")
    return parts


def _request(data: bytes) -> tuple[str, str, dict[str, str]]:
    parts = _strings(data)
    if len(parts) < 2 or not parts[0]:
        raise Malformed(f"{Opcode(data[1]).name} names no file and mode")
    return _text(parts[0]), _text(parts[1]).lower(), _options(parts[2:])


def _options(parts: list[bytes]) -> dict[str, str]:
    """Options by name. NULs behind the last one, as some firmware pads its requests with, are no options."""
    options: dict[str, str] = {}
    for index in range(0, len(parts), 2):
        name = _text(parts[index]).lower()
        if not name:
            continue
        if index + 1 == len(parts):
            raise Malformed(f"option {name!r} has no value")
        if name in options:
            raise Malformed(f"option {name!r} stands twice")
        options[name] = _text(parts[index + 1])
    return options


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _flat(options: Mapping[str, str]) -> list[str]:
    return [text for item in options.items() for text in item]


def _join(strings: list[str]) -> bytes:
    raw = [text.encode("utf-8", "surrogateescape") for text in strings]
    if any(b"\0" in text for text in raw):
        raise ValueError("a string in a TFTP packet cannot contain NUL")
    return b"".join(text + b"\0" for text in raw)
