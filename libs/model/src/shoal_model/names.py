"""Identifiers that appear in subjects, keys and file names, checked in one place. Standard library alone."""

import ipaddress
import re
from typing import NewType

NodeId = NewType("NodeId", str)
"""A node's immutable id: lower-case letters, digits and dashes, 1 to 63 characters. Its host name may change."""
Mac = NewType("Mac", str)
"""A hardware address as lower-case hex octets with colons: 6 octets (Ethernet) or 20 (InfiniBand, RFC 4390)."""
Digest = NewType("Digest", str)
"""SHA-256 as 64 lower-case hex digits."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ETHERNET_OCTETS, _INFINIBAND_OCTETS = 6, 20


def name(value: str) -> str:
    """Return `value` if it may name a record (and so stand in a subject); else ValueError."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name: use 1 to 63 lower-case letters, digits and dashes, "
            "with a letter or digit first and last"
        )
    return value


def mac(value: str) -> Mac:
    """Return the canonical form of a hardware address written with colons, dashes, dots or nothing; else ValueError."""
    digits = re.sub(r"[:.-]", "", value.strip().lower()) if isinstance(value, str) else ""
    if len(digits) not in (2 * _ETHERNET_OCTETS, 2 * _INFINIBAND_OCTETS) or re.search(r"[^0-9a-f]", digits):
        raise ValueError(f"{value!r} is not a hardware address: expected 6 octets (or 20 for InfiniBand) in hex")
    if len(digits) == 2 * _ETHERNET_OCTETS and (int(digits[:2], 16) & 1 or not int(digits, 16)):
        raise ValueError(f"{value!r} is a group or null address, which no machine can have")
    return Mac(":".join(digits[i : i + 2] for i in range(0, len(digits), 2)))


def mac_key(value: str) -> str:
    """The bare hex digits of a hardware address, as used in keys and subjects (`525400770011`)."""
    return mac(value).replace(":", "")


def digest(value: str) -> Digest:
    """Return `value` if it is a SHA-256 in lower-case hex; else ValueError."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{value!r} is not a SHA-256 digest: expected 64 lower-case hex digits")
    return Digest(value)


def host_id(address: str) -> str:
    """The Hostid of an IPv4 address as `gethostip` prints it: `10.77.0.11` → `0A4D000B`."""
    return f"{int(ipaddress.IPv4Address(address)):08X}"
