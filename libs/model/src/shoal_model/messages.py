"""The messages on the bus. A body is msgpack of one of these, nothing around it; fields are only ever added.

Each class names the subject it travels on. Nodes carry no pydantic: there the same maps are made by hand, and
contract tests hold them to these models. Unknown fields are ignored, so that the two ends may differ by a release.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shoal_model.records import (
    BootStyle,
    Ipv4,
    Kind,
    Line,
    MacAddress,
    Name,
    Sha256,
    StoredFile,
    TmpfsSize,
)
from shoal_model.subjects import Stage


class Message(BaseModel):
    """A frozen model that ignores fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Empty(Message):
    """A request or reply without content."""


# --- registry ---------------------------------------------------------------------------------------------


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


class BootReply(Message):
    """What a node is to boot. `manifest` is an `ImageManifest` as plain data."""

    node: Name
    name: Name
    manifest: dict[str, Any]
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
    architecture: int | None = Field(None, description="DHCP option 93 (RFC 4578)")
    uuid: str | None = None
    relay: Ipv4 | None = None


class MachineSeen(Message):
    """`evt.machine.<mac>.seen`: dhcp tells of a request from an unknown MAC, at most twice a minute for each."""

    mac: MacAddress
    at: AwareDatetime
    vendor_class: str | None = Field(None, max_length=255)
    architecture: int | None = None
    uuid: str | None = Field(None, max_length=64)
    relay: Ipv4 | None = None


class MachinesReply(Message):
    """`rpc.registry.v1.discovered`: the discovered machines, last seen first."""

    machines: list[Machine]


class PublishImageRequest(Message):
    """`rpc.registry.v1.publish-image`: image-builder has put a build into the store. The manifest is plain data."""

    name: Name
    manifest: dict[str, Any]


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


# --- boot and fleet ---------------------------------------------------------------------------------------


class Status(StrEnum):
    """How a stage went."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


class BootEvent(Message):
    """`evt.boot.<node>.<stage>`. `reason` is for people: what went wrong, or why a fallback was taken."""

    node: Name
    stage: Stage
    at: AwareDatetime
    boot: str | None = Field(None, max_length=64, description="boot id; unknown to dhcp")
    status: Status = Status.OK
    reason: str | None = Field(None, max_length=4000)
    details: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Boot(Message):
    """One boot of a node: its events in order of time."""

    node: Name
    boot: str | None
    events: list[BootEvent]


class BootsRequest(Message):
    """`rpc.fleet.v1.boots`: the latest boot of each of these nodes; none named: of all."""

    nodes: list[Name] = Field(default_factory=list)


class BootsReply(Message):
    """See `BootsRequest`. A node that never booted is not among them."""

    boots: list[Boot]


class Heartbeat(Message):
    """`node.<node>.heartbeat`, core NATS, every few seconds from the resident execd."""

    node: Name
    boot: str
    at: AwareDatetime
    uptime: float = Field(description="seconds")
    load: float = Field(description="load average of one minute")
    memory_total: int = Field(description="bytes")
    memory_available: int = Field(description="bytes")
    image: Sha256 | None = Field(None, description="digest of the running image")
    generation: Sha256 | None = Field(None, description="generation of the options it was configured with")
    release: str = Field("", max_length=64, description="version of execd")


class NodeState(StrEnum):
    """What fleet makes of a node's heartbeats and boot events."""

    UNKNOWN = "unknown"
    BOOTING = "booting"
    FAILED = "failed"
    UP = "up"
    LOST = "lost"


class NodeStatus(Message):
    """A node as it is."""

    node: Name
    state: NodeState
    since: AwareDatetime | None = None
    stage: Stage | None = None
    heartbeat: Heartbeat | None = None


class StatusRequest(Message):
    """`rpc.fleet.v1.status`: the state of these nodes; none named: of all known ones."""

    nodes: list[Name] = Field(default_factory=list)


class StatusReply(Message):
    """See `StatusRequest`."""

    nodes: list[NodeStatus]


class LogLines(Message):
    """`evt.node.<node>.log`: lines of a stage's log, in order. A gap in `sequence` is a loss."""

    node: Name
    boot: str = Field(max_length=64)
    stage: str = Field(max_length=16, description="stage1, stage2 or execd")
    sequence: int
    lines: list[Annotated[str, Field(max_length=8000)]] = Field(max_length=1000)


class LogRequest(Message):
    """`rpc.fleet.v1.log`: the stage logs of a node's latest boot."""

    node: Name


class LogReply(Message):
    """The log as text, its last 256 KiB at most."""

    boot: str | None
    text: str


class ExecState(StrEnum):
    """How a remote command went on one node."""

    SUCCESS = "success"
    ERRORS = "errors"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


class ExecRequest(Message):
    """`rpc.fleet.v1.exec`: run a command on nodes in parallel. `command` is an argument list, never a shell string."""

    nodes: list[Name] = Field(min_length=1)
    command: list[str] = Field(min_length=1, max_length=4096)
    timeout: float = Field(60.0, gt=0, le=3600, description="seconds for each node")
    author: Line


class NodeExec(Message):
    """`node.<node>.exec`, a request from fleet: the same command for one node."""

    id: str = Field(max_length=64)
    command: list[str] = Field(min_length=1, max_length=4096)
    timeout: float


class NodeExecReply(Message):
    """How the command ended on the node; output is cut at 256 KiB a stream."""

    exit_code: int | None = Field(description="None if it could not be started or ran out of time")
    stdout: bytes
    stderr: bytes
    error: str | None = None


class ExecResult(Message):
    """The result on one node. `errors` is exit code 0 with something on stderr; `cut` says that the reply had no room
    for all of the output.
    """

    node: Name
    state: ExecState
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    error: str | None = None
    cut: bool = False


class ExecReply(Message):
    """See `ExecRequest`."""

    id: str
    results: list[ExecResult]


# --- images -----------------------------------------------------------------------------------------------


class BuildImageJob(Message):
    """`job.image.build`: make sure that image `name`, as it is recorded now, is built and published."""

    name: Name


class BuildRequest(Message):
    """`rpc.image-builder.v1.build`: enqueue a build of an image; a build already waiting or running is joined."""

    name: Name


class BuildReply(Message):
    """The id under which `evt.job.<id>.progress` and `evt.job.<id>.done` will tell of it."""

    job: Name


class JobProgress(Message):
    """`evt.job.<id>.progress`: a step of a job began."""

    job: Name
    image: Name
    step: str
    at: AwareDatetime
    fraction: float | None = Field(None, ge=0, le=1)


class JobDone(Message):
    """`evt.job.<id>.done`: a job ended, with the reason if it failed."""

    job: Name
    image: Name
    status: Status
    reason: str | None = None
    digest: Sha256 | None = None
    at: AwareDatetime


class ImagePublished(Message):
    """`evt.image.<name>.published`: nodes that boot from now on get this build."""

    name: Name
    digest: Sha256
    at: AwareDatetime


class CommitRootfsRequest(Message):
    """`rpc.image-builder.v1.commit-rootfs`: pack the tree of a Root FS customization as it is on disk now."""

    name: Name


class CommitRootfsReply(Message):
    """The archive it became."""

    archive: StoredFile
    files: int


class ModuleInfo(Message):
    """An image module that this head offers."""

    name: Name
    version: str
    flavor: Name
    sha256: Sha256
    size: int
    packages: int
    description: str = ""


class ModulesReply(Message):
    """`rpc.image-builder.v1.modules`: the modules on offer."""

    modules: list[ModuleInfo]


# --- multicast --------------------------------------------------------------------------------------------


class JoinRequest(Message):
    """`rpc.mcastd.v1.join.<node>`: a node wants an image now."""

    boot: str = Field(max_length=64)
    image: Sha256 = Field(description="digest of the squashfs")
    address: Ipv4
    missing: int | None = Field(None, description="blocks still missing, when it resumes; None: all")


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
    session: int
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


# --- node options -----------------------------------------------------------------------------------------


class OptionFile(Message):
    """A file that execd writes. Content stands here, or is fetched by its digest when options are too large."""

    path: str = Field(description="absolute")
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    content: bytes | None = None
    sha256: Sha256
    size: int


class OptionArchive(Message):
    """A Root FS customization to unpack over the root, with owner, group and mode kept."""

    name: Name
    archive: StoredFile


class OptionAction(Message):
    """A step that execd takes after the files are written; execd knows the verbs, see `docs/boot-process.md`."""

    verb: str
    arguments: list[str] = Field(default_factory=list)


class NodeOptions(Message):
    """`node.<node>.options`: everything a node is to be. `generation` is the hash of the rest."""

    node: Name
    generation: Sha256
    files: list[OptionFile]
    archives: list[OptionArchive]
    actions: list[OptionAction]
    sources: list[str] = Field(description="base URLs serving `<base>/blobs/<sha256>`")


class AnnounceRequest(Message):
    """`rpc.execd-config.v1.announce.<node>`: execd is there, has this generation, and waits for its options."""

    boot: str = Field(max_length=64)
    generation: Sha256 | None = None
    release: str = Field("", max_length=64)


class AnnounceReply(Message):
    """The generation that is being sent."""

    generation: Sha256


class PreviewRequest(Message):
    """`rpc.execd-config.v1.preview`: what this node would get now."""

    node: Name


class PreviewFile(Message):
    """One file, byte for byte, or a link or directory. `content` is None above 256 KiB: fetch it by its digest."""

    path: str
    kind: str = Field(description="file, symlink or directory")
    mode: int
    uid: int
    gid: int
    origin: str = Field(description="`options`, or the Root FS customization it comes from")
    content: bytes | None = None
    target: str | None = None
    sha256: Sha256 | None = None
    size: int = 0


class PreviewReply(Message):
    """See `PreviewRequest`."""

    node: Name
    generation: Sha256
    files: list[PreviewFile]
    actions: list[OptionAction]
