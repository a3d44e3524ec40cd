"""Who is let in: armed boots, bindings of keys to nodes, quarantine, alarms."""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from shoal_model.messages.base import Message
from shoal_model.records import Ipv4, Line, MacAddress, Name

NodeKey = Annotated[str, Field(pattern=r"^U[A-Z2-7]{55}$", description="public key of a node (`U…`)")]
BootId = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


class Party(Message):
    """Somebody who says to be a node: the key it has, where it connects from, and the boot of its token."""

    key: NodeKey
    address: Ipv4
    boot: BootId | None = Field(None, description="of its token; None: it showed none")
    mac: MacAddress | None = None
    at: AwareDatetime = Field(description="when it was let in, or when it tried first")


class ArmRequest(Message):
    """`rpc.auth.v1.arm`: expect one boot of each of these nodes from now on."""

    nodes: list[Name] = Field(min_length=1, max_length=100_000)
    seconds: int = Field(1800, ge=0, le=7 * 86400, description="for how long; 0 disarms")
    author: Line


class Armed(Message):
    """A node whose next boot is expected, until when, and by whose word."""

    node: Name
    until: AwareDatetime
    author: Line


class ArmedReply(Message):
    """`rpc.auth.v1.arm` and `rpc.auth.v1.armed`: the nodes that are armed now; of the first, those it was asked for."""

    nodes: list[Armed]


class AnnounceRebootRequest(Message):
    """`rpc.auth.v1.announce-reboot.<node>`: this node, proven by its key, is about to boot again: expect it."""

    boot: BootId = Field(description="the boot that ends")
    key: NodeKey = Field(description="the key that speaks for this node")
    signature: bytes = Field(
        min_length=64, max_length=64, description="by this key, of node and boot: `shoal_identity.statements`"
    )


class AnnounceRebootReply(Message):
    """Until when the next boot is expected."""

    until: AwareDatetime


class Binding(Message):
    """A node and the one key that speaks for it now."""

    node: Name
    party: Party
    revoked: bool = False


class BindingsRequest(Message):
    """`rpc.auth.v1.bindings`: who speaks for these nodes; none named: for all."""

    nodes: list[Name] = Field(default_factory=list)


class BindingsReply(Message):
    """See `BindingsRequest`. A node that was never let in is not among them."""

    bindings: list[Binding]


class RevokeRequest(Message):
    """`rpc.auth.v1.revoke`: what speaks for these nodes now speaks no more, its connections are cut, and none of
    their boots is expected any more.
    """

    nodes: list[Name] = Field(min_length=1, max_length=100_000)
    author: Line


class RevokeReply(Message):
    """The nodes that had a key, and how many connections were cut."""

    nodes: list[Name]
    connections: int


class QuarantineState(StrEnum):
    """What an operator has decided about an attempt."""

    WAITING = "waiting"
    ADMITTED = "admitted"
    REJECTED = "rejected"


class Quarantined(Message):
    """An attempt that was not let in: `bound` is who speaks for the node meanwhile, None if nobody does."""

    node: Name
    attempt: Party
    bound: Party | None = None
    reason: str = Field(max_length=1000)
    state: QuarantineState = QuarantineState.WAITING
    attempts: int = Field(1, ge=1)
    last: AwareDatetime


class QuarantineReply(Message):
    """`rpc.auth.v1.quarantine`: what waits for an operator, and what was decided lately."""

    entries: list[Quarantined]


class DecideRequest(Message):
    """`rpc.auth.v1.decide`: let this attempt in, in the place of whoever speaks for the node, or refuse it for good.

    `key` may be the beginning of the attempt's key, and may be left out where the node has one attempt that waits.
    """

    node: Name
    key: str = Field("", pattern=r"^[A-Z2-7]{0,56}$")
    admit: bool
    author: Line


class AlarmKind(StrEnum):
    """What is wrong with an attempt to connect."""

    NOT_ARMED = "not-armed"
    REPLAYED = "replayed"
    WRONG_ADDRESS = "wrong-address"
    EXPIRED = "expired"
    FORGED = "forged"


class IdentityAlarm(Message):
    """`evt.identity.<node>.alarm`: somebody wanted to be this node and was refused; both parties are named."""

    node: Name
    kind: AlarmKind
    reason: str = Field(max_length=1000)
    at: AwareDatetime
    attempt: Party | None = Field(None, description="None: what it showed named no key")
    bound: Party | None = Field(None, description="who speaks for the node; None: nobody does")


class IdentityChanged(Message):
    """`evt.identity.<node>.changed`: what auth has noted of a node, and at whose word."""

    node: Name
    what: str = Field(pattern=r"^(armed|disarmed|bound|revoked|admitted|rejected)$")
    author: Line
    at: AwareDatetime
    party: Party | None = None
