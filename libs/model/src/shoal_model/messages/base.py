"""What every message is."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
"""A number that fits into every message again: pydantic would also take text of thousands of digits for an integer."""
Measure = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
"""A quantity: finite, not negative."""


class Message(BaseModel):
    """A frozen model that ignores fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Empty(Message):
    """A request or reply without content."""
