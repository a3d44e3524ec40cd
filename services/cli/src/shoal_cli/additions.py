"""Records for several new nodes out of one line: addresses count up, each node has a MAC of its own. Pure."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from shoal_cli import fields


def counting_up(first: str, count: int) -> list[str]:
    """`count` IPv4 addresses from `first` on. Raises FieldError if that is none, or they leave the address space."""
    try:
        start = ipaddress.IPv4Address(first)
        return [str(start + step) for step in range(count)]
    except ipaddress.AddressValueError as error:
        raise fields.FieldError(f"{first!r} is not an IPv4 address: {error}") from error


def records(nodes: Sequence[str], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """A record for each node from parsed assignments: one node gets them as they are. Of several, the first gets
    `address`, the others count up from there, and `mac` lists one for each, with commas; all else is for all of them.

    Raises FieldError if those two do not suffice for so many nodes.
    """
    if len(nodes) == 1:
        return [fields.merge({}, wanted)]
    missing = [field for field in ("mac", "address") if not isinstance(wanted.get(field), str)]
    if missing:
        raise fields.FieldError(
            f"{len(nodes)} nodes need {' and '.join(missing)}: mac=MAC,MAC,… gives one for each, "
            "address=IP the first one's address, from which the others count up"
        )
    macs = [part.strip() for part in wanted["mac"].split(",") if part.strip()]
    if len(macs) != len(nodes):
        raise fields.FieldError(f"{len(nodes)} nodes and {len(macs)} in mac=: give one for each, separated by commas")
    addresses = counting_up(wanted["address"], len(nodes))
    return [
        fields.merge({}, {**wanted, "mac": mac, "address": address})
        for mac, address in zip(macs, addresses, strict=True)
    ]
