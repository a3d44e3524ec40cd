"""Sessions that bring an image to many nodes at once."""

from pydantic import AwareDatetime, Field

from shoal_model.messages.base import Count, Message
from shoal_model.records import Ipv4, Sha256


class JoinRequest(Message):
    """`rpc.mcastd.v1.join.<node>`: a node wants an image now."""

    boot: str = Field(max_length=64)
    image: Sha256 = Field(description="digest of the squashfs")
    address: Ipv4
    missing: Count | None = Field(None, description="blocks still missing, when it resumes; None: all")


class JoinReply(Message):
    """Where the image will be heard. Sizes in bytes; the blocks' hashes are in the manifest the node already has."""

    session: int = Field(ge=0, lt=2**32)
    source: Ipv4 = Field(description="the sender's address, for source-specific membership")
    group: Ipv4
    port: int
    control_port: int = Field(description="UDP port of the sender that takes the receivers' reports")
    receiver: int = Field(ge=0, lt=2**32, description="what the node signs its reports with in this session")
    size: int
    symbol_size: int
    block_symbols: int
    http: str = Field(description="URL of the same bytes for HTTP ranges")


class LeaveRequest(Message):
    """`rpc.mcastd.v1.leave.<node>`: the node has the image, or gives up on multicast and says why."""

    boot: str = Field(max_length=64)
    session: int = Field(strict=True, ge=0, lt=2**32)
    complete: bool
    reason: str | None = Field(None, max_length=400)


class SessionInfo(Message):
    """A multicast session as mcastd sees it; `sent` counts payload bytes, repair included."""

    session: int
    image: Sha256
    size: int
    sent: int
    receivers: int
    complete: int
    started: AwareDatetime
    ended: AwareDatetime | None = None


class SessionsReply(Message):
    """`rpc.mcastd.v1.sessions`: sessions running and the latest ended ones."""

    sessions: list[SessionInfo]
