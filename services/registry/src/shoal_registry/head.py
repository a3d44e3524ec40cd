"""The key `head`: who changed the records last, and the point on which all changes compare and set. Pure."""

from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shoal_bus.codec import pack, unpack

KEY = "head"


class Head(BaseModel):
    """The content of `head`. Its own revision in the bucket is the revision of the configuration.

    `revision` is that of the head it replaced, so that the records of its batch are those with revisions between.
    A change of several batches writes `step` 1 to `steps` under one id; `step` below `steps` says it was cut short.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    revision: int
    author: str
    at: AwareDatetime
    change: str
    step: int = 1
    steps: int = 1

    def encode(self) -> bytes:
        """As it stands in the bucket."""
        return pack(self.model_dump())

    @classmethod
    def decode(cls, value: bytes) -> "Head":
        """Raises Invalid or ValidationError for what is no head."""
        data: dict[str, Any] = unpack(value)
        return cls.model_validate(data)

    def is_of(self, other: "Head") -> bool:
        """Whether both are of the same batch of the same change."""
        return (self.change, self.step) == (other.change, other.step)


def last_changed(head: Head | None) -> str:
    """Who changed the records last and when, for a message."""
    return "nobody changed it yet" if head is None else f"last changed by {head.author} at {_text(head.at)}"


def _text(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
