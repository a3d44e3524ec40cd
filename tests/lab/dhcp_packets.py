"""DHCP packets for tests: made by hand, made up, and captured from real clients."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from shoal_dhcp4 import MessageType, Op, Option, Packet

CAPTURES = Path(__file__).parent.parent / "captures" / "dhcp"
MAC = bytes.fromhex("525400770011")


def captured(name: str) -> bytes:
    """The UDP payload in `tests/captures/dhcp/<name>.hex`."""
    lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def request(kind: MessageType, options: Mapping[Any, bytes] | None = None, **fields: object) -> Packet:
    """A client's packet; `fields` are those of Packet, addresses as text."""
    typed = {key: IPv4Address(value) if key.endswith("addr") and isinstance(value, str) else value
             for key, value in fields.items()}  # fmt: skip
    base: dict[str, object] = {"op": Op.REQUEST, "xid": 0x12345678, "chaddr": MAC}
    all_options = {Option.MESSAGE_TYPE: bytes((kind,)), **(options or {})}
    return Packet(**{**base, **typed, "options": all_options})  # type: ignore[arg-type]


def packed(address: str) -> bytes:
    """An IPv4 address as four bytes."""
    return IPv4Address(address).packed


_addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
_option_codes = st.integers(1, 254).filter(lambda code: code != Option.OVERLOAD)
_texts = st.binary().map(lambda raw: raw.replace(b"\0", b""))

packets = st.builds(
    Packet,
    op=st.sampled_from(Op),
    xid=st.integers(0, 2**32 - 1),
    chaddr=st.binary(max_size=16),
    options=st.dictionaries(_option_codes, st.binary(max_size=600), max_size=8),
    htype=st.integers(0, 255),
    hops=st.integers(0, 255),
    secs=st.integers(0, 65535),
    flags=st.integers(0, 65535),
    ciaddr=_addresses,
    yiaddr=_addresses,
    siaddr=_addresses,
    giaddr=_addresses,
    sname=_texts.map(lambda raw: raw[:64]),
    file=_texts.map(lambda raw: raw[:128]),
)
"""Any packet that can exist."""
