"""The DHCPv4 packet as a value, its bytes both ways (RFC 2131, section 2; RFC 2132; RFC 3396; RFC 4578)."""

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Final

from shoal_dhcp4 import options as _options
from shoal_dhcp4.codes import BROADCAST_FLAG, ETHERNET, MessageType, Op, Option, Overload
from shoal_dhcp4.errors import LocalProtocolError, RemoteProtocolError

ANY: Final = IPv4Address("0.0.0.0")
COOKIE: Final = b"\x63\x82\x53\x63"
MINIMUM_SIZE: Final = 300
"""Bytes; BOOTP relays and Linux' own client drop shorter packets (RFC 1542, section 2.1)."""
DEFAULT_LIMIT: Final = 576 - 28
"""Bytes of the largest packet that every client takes: a datagram of 576 less the IP and UDP headers."""

_HEADER = struct.Struct("!BBBBIHHIIII16s64s128s4s")
_FILE_SIZE, _SNAME_SIZE, _CHADDR_SIZE = 128, 64, 16
_UDP_OVERHEAD = 28
_OVERLOAD_SPACE = 3
_PINNED = (Option.MESSAGE_TYPE, Option.RELAY_AGENT_INFORMATION)  # relays look for 82 nowhere else (RFC 3046, 2.2)


@dataclass(frozen=True, slots=True)
class Packet:
    """One DHCP packet. `chaddr` is as long as `hlen` says; `sname` and `file` are without their padding.

    `options` never holds 52 (overload): it belongs to the bytes alone. The properties read single options and raise
    RemoteProtocolError if the value has not the length that it must have; None means that the option is absent.
    """

    op: Op
    xid: int
    chaddr: bytes
    options: Mapping[int, bytes] = field(default_factory=dict)
    htype: int = ETHERNET
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = ANY
    yiaddr: IPv4Address = ANY
    siaddr: IPv4Address = ANY
    giaddr: IPv4Address = ANY
    sname: bytes = b""
    file: bytes = b""

    @property
    def broadcast(self) -> bool:
        """Whether the client asks for its answer as a broadcast."""
        return bool(self.flags & BROADCAST_FLAG)

    @property
    def message_type(self) -> MessageType | None:
        """Option 53."""
        value = self._sized(Option.MESSAGE_TYPE, 1)
        if value is None:
            return None
        try:
            return MessageType(value[0])
        except ValueError:
            raise RemoteProtocolError(f"message type {value[0]} is unknown: expected 1 to 8") from None

    @property
    def requested_address(self) -> IPv4Address | None:
        """Option 50."""
        return self._address(Option.REQUESTED_ADDRESS)

    @property
    def server_identifier(self) -> IPv4Address | None:
        """Option 54."""
        return self._address(Option.SERVER_IDENTIFIER)

    @property
    def architecture(self) -> int | None:
        """Option 93; the first, where a client names several (RFC 4578, section 2.1)."""
        value = self.options.get(Option.CLIENT_ARCHITECTURE)
        if value is None:
            return None
        if len(value) < 2 or len(value) % 2:
            raise RemoteProtocolError(f"option 93 has {len(value)} bytes: expected pairs")
        return int.from_bytes(value[:2], "big")

    @property
    def size_limit(self) -> int:
        """The largest answer in bytes, headers of IP and UDP not counted, by option 57; never below what all take."""
        value = self._sized(Option.MAXIMUM_MESSAGE_SIZE, 2)
        return DEFAULT_LIMIT if value is None else max(DEFAULT_LIMIT, int.from_bytes(value, "big") - _UDP_OVERHEAD)

    def _sized(self, code: int, size: int) -> bytes | None:
        value = self.options.get(code)
        if value is not None and len(value) != size:
            raise RemoteProtocolError(f"option {int(code)} has {len(value)} bytes: expected {size}")
        return value

    def _address(self, code: int) -> IPv4Address | None:
        value = self._sized(code, 4)
        return None if value is None else IPv4Address(value)


def decode(data: bytes) -> Packet:
    """The packet in a UDP payload. Raises RemoteProtocolError for anything that is none, plain BOOTP included."""
    if len(data) < _HEADER.size:
        raise RemoteProtocolError(f"{len(data)} bytes are no DHCP packet: expected {_HEADER.size} or more")
    (op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, cookie) = (
        _HEADER.unpack_from(data)
    )
    if op not in (1, 2):
        raise RemoteProtocolError(f"op is {op}: expected 1 (request) or 2 (reply)")
    if hlen > _CHADDR_SIZE:
        raise RemoteProtocolError(f"hlen is {hlen}: expected {_CHADDR_SIZE} or less")
    if cookie != COOKIE:
        raise RemoteProtocolError(f"the magic cookie is {cookie.hex()}: expected {COOKIE.hex()}, so this is no DHCP")
    found: dict[int, bytes] = {}
    _options.read(data[_HEADER.size :], found)
    overload = found.pop(Option.OVERLOAD, None)
    if overload is not None:
        file, sname = _read_overloaded(overload, file, sname, found)
    return Packet(
        op=Op.REQUEST if op == 1 else Op.REPLY,
        xid=xid,
        chaddr=chaddr[:hlen],
        options=found,
        htype=htype,
        hops=hops,
        secs=secs,
        flags=flags,
        ciaddr=_address_from(ciaddr),
        yiaddr=_address_from(yiaddr),
        siaddr=_address_from(siaddr),
        giaddr=_address_from(giaddr),
        sname=sname.partition(b"\0")[0],
        file=file.partition(b"\0")[0],
    )


def encode(packet: Packet, *, limit: int | None = None) -> bytes:
    """The packet as a UDP payload of at most `limit` bytes (None: whatever it takes), at least `MINIMUM_SIZE`.

    What does not fit into the options field moves into `file` and `sname` where those are free (option overload).
    Raises LocalProtocolError if it does not fit at all, or if a field holds what it cannot hold.
    """
    area = _closed(packet.options.items())
    file, sname = packet.file, packet.sname
    if limit is not None and _HEADER.size + len(area) > limit:
        head, spilled = _lay_out(packet, limit)
        area = _closed([*head, (Option.OVERLOAD, bytes((sum(spilled),)))])
        file = _closed(spilled[Overload.FILE]) if Overload.FILE in spilled else file
        sname = _closed(spilled[Overload.SNAME]) if Overload.SNAME in spilled else sname
    data = _encode_header(packet, sname, file) + area
    return data.ljust(MINIMUM_SIZE, b"\0")


def fitted(packet: Packet, limit: int, dispensable: Collection[int]) -> bytes:
    """Like `encode`, leaving out `dispensable` options, the last one first, until the packet fits into `limit` bytes.

    Raises LocalProtocolError if it does not fit without any of them.
    """
    while True:
        try:
            return encode(packet, limit=limit)
        except LocalProtocolError:
            last = next((code for code in reversed(list(packet.options)) if code in dispensable), None)
            if last is None:
                raise
            rest = {code: value for code, value in packet.options.items() if code != last}
            packet = replace(packet, options=rest)


def _address_from(number: int) -> IPv4Address:
    return IPv4Address(number) if number else ANY


def _read_overloaded(overload: bytes, file: bytes, sname: bytes, found: dict[int, bytes]) -> tuple[bytes, bytes]:
    """Read options from the fields that option 52 names, `file` first (RFC 3396, section 5); what is left of both."""
    if len(overload) != 1 or overload[0] not in (1, 2, 3):
        raise RemoteProtocolError(f"option 52 is {overload.hex()}: expected 01, 02 or 03")
    if overload[0] & Overload.FILE:
        _options.read(file, found, "file")
        file = b""
    if overload[0] & Overload.SNAME:
        _options.read(sname, found, "sname")
        sname = b""
    if found.pop(Option.OVERLOAD, None) is not None:
        raise RemoteProtocolError("option 52 stands in a field that option 52 opened")
    return file, sname


_Area = list[tuple[int, bytes]]


def _lay_out(packet: Packet, limit: int) -> tuple[_Area, dict[Overload, _Area]]:
    """Which options go into the options field, and which into header fields, if they do not all fit into the first."""
    sizes = {code: _options.written_size(value) for code, value in packet.options.items()}
    room = limit - _HEADER.size - 1 - _OVERLOAD_SPACE - sum(sizes.get(code, 0) for code in _PINNED)
    if room < 0:
        raise LocalProtocolError(f"{limit} bytes cannot hold the options that must stand in the options field")
    free = {Overload.FILE: 0 if packet.file else _FILE_SIZE - 1, Overload.SNAME: 0 if packet.sname else _SNAME_SIZE - 1}
    head: _Area = []
    spilled: dict[Overload, _Area] = {}
    for code, value in packet.options.items():
        size = sizes[code]
        if code in _PINNED or size <= room:
            head.append((code, value))
            room -= 0 if code in _PINNED else size
            continue
        place = next((place for place, left in free.items() if size <= left), None)
        if place is None:
            raise LocalProtocolError(f"option {int(code)} with {len(value)} bytes does not fit into {limit} bytes")
        spilled.setdefault(place, []).append((code, value))
        free[place] -= size
    return head, spilled


def _closed(area: Iterable[tuple[int, bytes]]) -> bytes:
    return _options.write(area) + bytes((Option.END,))


def _encode_header(packet: Packet, sname: bytes, file: bytes) -> bytes:
    if Option.OVERLOAD in packet.options:
        raise LocalProtocolError("option 52 is written where it is needed: it cannot be given")
    if b"\0" in packet.sname + packet.file:
        raise LocalProtocolError("sname and file are texts: they cannot hold a zero byte")
    if len(packet.chaddr) > _CHADDR_SIZE or len(sname) > _SNAME_SIZE or len(file) > _FILE_SIZE:
        raise LocalProtocolError(
            f"chaddr, sname and file have {len(packet.chaddr)}, {len(sname)} and {len(file)} bytes: "
            f"expected at most {_CHADDR_SIZE}, {_SNAME_SIZE} and {_FILE_SIZE}"
        )
    try:
        return _HEADER.pack(
            packet.op,
            packet.htype,
            len(packet.chaddr),
            packet.hops,
            packet.xid,
            packet.secs,
            packet.flags,
            int(packet.ciaddr),
            int(packet.yiaddr),
            int(packet.siaddr),
            int(packet.giaddr),
            packet.chaddr,
            sname,
            file,
            COOKIE,
        )
    except struct.error as error:
        raise LocalProtocolError(f"a header field is out of range: {error}") from error
