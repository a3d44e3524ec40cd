"""Records and their changes, what a node is to boot, machines that nobody registered."""

from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, Field

from shoal_model.messages.base import Message
from shoal_model.records import BootStyle, Ipv4, Kind, Line, MacAddress, Name, StoredFile, TmpfsSize


class Action(StrEnum):
    """What a change does to one record."""

    PUT = "put"
    DELETE = "delete"


class Operation(Message):
    """One record to be put (whole, as plain data) or deleted. `name` is `default` for the global template."""

    action: Action
    kind: Kind
    name: Name
    record: dict[str, Any] | None = None


class FieldChange(Message):
    """One field before and after, as it would stand in YAML; None where it is absent."""

    field: str
    before: Any = None
    after: Any = None


class RecordChange(Message):
    """What a change did, or would do, to one record."""

    kind: Kind
    name: str
    what: str = Field(description="added, changed or removed")
    fields: list[FieldChange] = Field(default_factory=list)


class ChangeRequest(Message):
    """`rpc.registry.v1.change`: operations that are validated and stored as one, or not at all."""

    operations: list[Operation]
    author: Line
    dry_run: bool = False
    expected_revision: int | None = Field(None, description="refuse the change if `head` moved on from this")


class ApplyRequest(Message):
    """`rpc.registry.v1.apply`: a document like the one `export` gives. What it does not name stays, unless `prune`."""

    document: dict[str, Any]
    author: Line
    dry_run: bool = False
    prune: bool = False
    expected_revision: int | None = None


class ChangeReply(Message):
    """What changed, and the revision of `head` that says so (unchanged if nothing did, or on a dry run)."""

    changes: list[RecordChange]
    revision: int


class ExportReply(Message):
    """`rpc.registry.v1.export`: the whole configuration as a `Cluster` document."""

    document: dict[str, Any]
    revision: int


class RecordsRequest(Message):
    """`rpc.registry.v1.list`: all records of a kind, or one of them. NotFound if the one is not there."""

    kind: Kind
    name: str | None = None


class RecordsReply(Message):
    """Records by name, as plain data."""

    records: dict[str, dict[str, Any]]
    revision: int


class ShowNodeRequest(Message):
    """`rpc.registry.v1.show-node`: a node with every value decided, and where each came from."""

    node: Name


class OverriddenValue(Message):
    """What a level says of a field that a nearer one decides."""

    value: Any
    source: str


class EffectiveValue(Message):
    """One field of a node as it applies, the level that it comes from, and what it overrides, nearest first."""

    field: str
    value: Any
    source: str
    overridden: list[OverriddenValue] = Field(default_factory=list)


class ShowNodeReply(Message):
    """See `ShowNodeRequest`."""

    node: Name
    values: list[EffectiveValue]


class BootRequest(Message):
    """`rpc.registry.v1.boot.<node>`: a node in stage 1 asks what it is to boot."""

    boot: str = Field(max_length=64, description="boot id")


class SignedManifest(Message):
    """An `ImageManifest` as `ImageManifest.body` gives it, the public key (`U…`) that signed these bytes, and its
    signature of 64 bytes; both empty where no image key was configured.
    """

    body: bytes
    key: str = ""
    signature: bytes = b""


class BootReply(Message):
    """What a node is to boot."""

    node: Name
    name: Name
    manifest: SignedManifest
    style: BootStyle
    root_size: TmpfsSize
    tmp_size: TmpfsSize
    sources: list[str] = Field(description="base URLs of file servers that serve `<base>/blobs/<sha256>` with ranges")


class Machine(Message):
    """A discovered machine: one whose MAC asked for an address and is in no record."""

    mac: MacAddress
    first_seen: AwareDatetime
    last_seen: AwareDatetime
    vendor_class: str | None = None
    architecture: int | None = Field(None, strict=True, ge=0, lt=2**16, description="DHCP option 93 (RFC 4578)")
    uuid: str | None = None
    relay: Ipv4 | None = None


class MachineSeen(Message):
    """`evt.machine.<mac>.seen`: dhcp tells of a request from an unknown MAC, at most twice a minute for each."""

    mac: MacAddress
    at: AwareDatetime
    vendor_class: str | None = Field(None, max_length=255)
    architecture: int | None = Field(None, strict=True, ge=0, lt=2**16, description="DHCP option 93 (RFC 4578)")
    uuid: str | None = Field(None, max_length=64)
    relay: Ipv4 | None = None


class MachinesReply(Message):
    """`rpc.registry.v1.discovered`: the discovered machines, last seen first."""

    machines: list[Machine]


class PublishImageRequest(Message):
    """`rpc.registry.v1.publish-image`: image-builder has put a build into the store."""

    name: Name
    manifest: SignedManifest


class PublishRootfsRequest(Message):
    """`rpc.registry.v1.publish-rootfs`: a committed tree stands in the store."""

    name: Name
    archive: StoredFile
    files: int


class Changed(Message):
    """`evt.<kind>.<name>.changed`: a record was added, changed or removed by a change."""

    kind: Kind
    name: str
    what: str
    revision: int
    author: str
    at: AwareDatetime
