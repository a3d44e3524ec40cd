"""What a transfer tells the one who drives it."""

from dataclasses import dataclass
from enum import StrEnum

from shoal_tftp_protocol.options import Negotiated


class Outcome(StrEnum):
    """How a transfer ended."""

    COMPLETED = "completed"
    PROBED = "probed"
    """The client took the size from the OACK and went away: normal for UEFI firmware and PXELINUX."""
    ABORTED = "aborted"
    """The other side sent ERROR."""
    TIMED_OUT = "timed-out"
    FAILED = "failed"
    """This side gave up: the content ended early, or the other side broke the protocol."""


@dataclass(frozen=True, slots=True)
class ContentWanted:
    """A sender needs `size` bytes of the file from `offset` on: give them to `receive_content`."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A receiver's request was granted with these values."""

    negotiated: Negotiated


@dataclass(frozen=True, slots=True)
class Content:
    """A receiver got the next bytes of the file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The transfer is over; `reason` is for people, empty when it completed."""

    outcome: Outcome
    reason: str = ""


Event = ContentWanted | Accepted | Content | Ended
