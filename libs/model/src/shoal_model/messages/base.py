"""What every message is."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A frozen model that ignores fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Empty(Message):
    """A request or reply without content."""
