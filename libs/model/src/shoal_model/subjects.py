"""Where subjects are spelled: the one place. Standard library alone.

Words are wide to narrow, one meaning a token: `rpc.<service>.v1.<verb>[.<node>]`, `evt.<entity>.<id>.<what>`,
`node.<node>.<topic>`, `job.<kind>.<verb>`. Node ids are `[a-z0-9-]+` (see `names`), so they are always one token.
"""

from enum import StrEnum

from shoal_model import names


class Service(StrEnum):
    """The services of a head; also the queue group each one answers in."""

    REGISTRY = "registry"
    AUTH = "auth"
    FLEET = "fleet"
    DHCP = "dhcp"
    TFTP = "tftp"
    IMAGE_BUILDER = "image-builder"
    MCASTD = "mcastd"
    EXECD_CONFIG = "execd-config"


class Stage(StrEnum):
    """The stages of a boot, in the order in which they normally come."""

    DHCP_OFFER = "dhcp.offer"
    DHCP_ACK = "dhcp.ack"
    LOADER_CONFIG = "loader.config"
    LOADER_KERNEL = "loader.kernel"
    LOADER_INITRD = "loader.initrd"
    STAGE1_START = "stage1.start"
    STAGE1_NETWORK = "stage1.network"
    STAGE1_BUS = "stage1.bus"
    IMAGE_SOURCE = "image.source"
    IMAGE_PROGRESS = "image.progress"
    IMAGE_RECEIVED = "image.received"
    IMAGE_VERIFIED = "image.verified"
    UNION_MOUNTED = "union.mounted"
    STAGE2_START = "stage2.start"
    STAGE2_UDEV = "stage2.udev"
    EXECD_OPTIONS = "execd.options"
    EXECD_CONFIGURED = "execd.configured"
    STAGE2_SCRIPTS = "stage2.scripts"
    SYSTEMD_START = "systemd.start"
    SYSTEMD_RUNNING = "systemd.running"


EVENTS_STREAM = "EVENTS"
TOLD_STREAM = "TOLD"
"""What nodes tell, on its way to EVENTS: see `told`."""
JOBS_STREAM = "JOBS"
RECORDS_BUCKET = "records"
STATE_BUCKET = "state"
IDENTITY_BUCKET = "identity"
"""Who is bound to which key, armed boots, quarantine: auth's alone."""
SECRETS_BUCKET = "secrets"
"""Values that are shown to nobody: registry's alone."""

EVENTS = "evt.>"
TOLD = "told.>"
JOBS = "job.>"
BOOT_EVENTS = "evt.boot.>"
ALARMS = "evt.identity.*.alarm"
HEARTBEATS = "node.*.heartbeat"


def rpc(service: Service, verb: str, node: str | None = None) -> str:
    """`rpc.<service>.v1.<verb>`; with a node, the form whose permission names that node."""
    subject = f"rpc.{service}.v1.{names.name(verb)}"
    return subject if node is None else f"{subject}.{names.name(node)}"


def rpc_of_every_node(service: Service, verb: str) -> str:
    """What a service subscribes to in order to answer `rpc(service, verb, node)` for all nodes."""
    return f"rpc.{service}.v1.{names.name(verb)}.*"


def event(entity: str, identity: str, what: str) -> str:
    """`evt.<entity>.<id>.<what-happened>`, for instance `evt.image.compute.published`."""
    return f"evt.{names.name(entity)}.{names.name(identity)}.{what}"


def boot_event(node: str, stage: Stage) -> str:
    """`evt.boot.<node>.<stage>`."""
    return f"evt.boot.{names.name(node)}.{stage}"


def boot_events(node: str) -> str:
    """Every boot event of one node."""
    return f"evt.boot.{names.name(node)}.>"


def node_log(node: str) -> str:
    """Lines of a node's stage logs, on their way to the head."""
    return f"evt.node.{names.name(node)}.log"


def told(event: str) -> str:
    """Where a node tells an event of its own: `told.boot.n001.stage1.start` becomes `evt.boot.n001.stage1.start`.

    A stream acknowledges a message at whatever subject its sender names, and the server does not ask whether the sender
    may publish there: with one event, a node could overwrite any record by an acknowledgement. So nodes tell their
    events to a stream that acknowledges nothing, and the server passes them on.
    """
    return f"told.{event.removeprefix('evt.')}"


def node_topic(node: str, topic: str) -> str:
    """`node.<node>.<topic>`: options, exec, heartbeat …"""
    return f"node.{names.name(node)}.{names.name(topic)}"


def inbox(role: str, name: str | None = None) -> str:
    """Where answers to a service (`_INBOX.registry`), an operator (`_INBOX.operator`) or a node (`_INBOX.node.n001`)
    arrive; its permissions name it.
    """
    return f"_INBOX.{names.name(role)}" if name is None else f"_INBOX.{names.name(role)}.{names.name(name)}"


def job(kind: str, verb: str) -> str:
    """`job.<kind>.<verb>`, a piece of work in stream JOBS."""
    return f"job.{names.name(kind)}.{names.name(verb)}"


def node_in(subject: str) -> str:
    """The node a subject is about: the last token of a node's request, the third of an event, the second of a topic.

    Raises ValueError if the token is no node id.
    """
    tokens = subject.split(".")
    index = {"evt": 2, "node": 1}.get(tokens[0], -1)
    if len(tokens) <= abs(index):
        raise ValueError(f"subject {subject!r} names no node")
    return names.name(tokens[index])
