"""What may come of an attempt to connect."""

from dataclasses import dataclass
from enum import StrEnum

from shoal_model.messages import AlarmKind, Party


class Outcome(StrEnum):
    """How an attempt ended; a label in the metrics."""

    LET_IN = "let-in"
    UNPROVEN = "unproven"
    UNKNOWN = "unknown"
    FORGED = "forged"
    EXPIRED = "expired"
    WRONG_ADDRESS = "wrong-address"
    UNRECORDED = "unrecorded"
    REVOKED = "revoked"
    REPLAYED = "replayed"
    NOT_ARMED = "not-armed"
    REJECTED = "rejected"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Refusal:
    """It is not let in. With a `node`, the attempt wanted to be this one of ours: operators are told, for this
    reason. `hold`: an operator may still let it in.
    """

    outcome: Outcome
    reason: str
    node: str | None = None
    party: Party | None = None
    alarm: AlarmKind | None = None
    hold: bool = False
