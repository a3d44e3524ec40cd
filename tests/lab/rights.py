"""Who may publish and subscribe to what: by hand, or as the contract's `sender` and `receiver` say. Nothing
comes from `permissions`.
"""

import re
from collections.abc import Mapping

from shoal_model import contract
from shoal_model.subjects import Service

SERVICES = frozenset(map(str, Service))
EVERYBODY = SERVICES | {"operator"}
READERS = SERVICES - {"image-builder"}
NOBODY: frozenset[str] = frozenset()
STREAMS = ("EVENTS", "TOLD", "JOBS", "KV_records", "KV_state", "KV_identity", "KV_secrets")

Who = frozenset[str] | set[str]

BUCKETS: Mapping[str, Who] = {
    "$KV.records.head": NOBODY,
    "$KV.records.node.n001": NOBODY,
    "$KV.records.claim.mac.525400770011": NOBODY,
    "$KV.secrets.ssh.host": NOBODY,
    "$KV.identity.node.n001": NOBODY,
    "$W.0011.records.head": NOBODY,
    "$W.*.records.head": NOBODY,
    "$W.>": NOBODY,
    "$KV.state.registry.effects": {"registry"},
    "$KV.state.machine.525400770011": {"registry"},
    "$KV.state.fleet.n001": {"fleet"},
    "$KV.state.exec.0011": {"fleet"},
    "$KV.state.other": NOBODY,
    "$KV.other.key": NOBODY,
}
"""Who may write a key where keys are read, or where somebody guesses that they are written."""

OWNERS: Mapping[str, str] = {"records": "registry", "secrets": "registry", "identity": "auth"}
"""Who alone writes a bucket."""

READING: Mapping[str, Mapping[str, Who]] = {
    "EVENTS": {
        "evt.boot.>": {"fleet", "operator"},
        "evt.boot.n001.>": {"fleet", "operator"},
        "evt.node.*.log": {"fleet", "operator"},
        "evt.node.*.changed": {"operator"},
        "evt.identity.>": {"operator"},
        "evt.job.>": {"operator"},
        "evt.>": {"operator"},
        ">": NOBODY,
    },
    "TOLD": {"told.>": NOBODY, ">": NOBODY},
    "JOBS": {"job.image.build.*": NOBODY, "job.>": NOBODY, ">": NOBODY},
    "KV_records": {"$KV.records.>": READERS, ">": NOBODY},
    "KV_state": {"$KV.state.>": {"registry", "fleet"}, ">": NOBODY},
    "KV_identity": {"$KV.identity.>": {"auth"}, ">": NOBODY},
    "KV_secrets": {"$KV.secrets.>": {"registry"}, ">": NOBODY},
}
"""Who may read which part of a stream."""

LOOKING: Mapping[str, Who] = {
    "EVENTS": EVERYBODY,
    "TOLD": {"registry"},
    "JOBS": SERVICES,
    "KV_records": {"registry"},
    "KV_state": SERVICES,
    "KV_identity": {"auth"},
    "KV_secrets": {"registry"},
}
"""Who may learn how a stream is."""

GETTING: Mapping[str, Who] = {
    "EVENTS": NOBODY,
    "TOLD": NOBODY,
    "JOBS": NOBODY,
    "KV_records": {"registry"},
    "KV_state": {"registry", "fleet"},
    "KV_identity": {"auth"},
    "KV_secrets": {"registry"},
}
"""Who may get any single message of a stream."""

FORBIDDEN = (
    *(f"$JS.API.STREAM.{verb}.{stream}" for verb in ("DELETE", "PURGE", "MSG.DELETE") for stream in STREAMS),
    *(f"$JS.API.{verb}.{stream}" for verb in ("DIRECT.GET", "STREAM.SNAPSHOT", "STREAM.RESTORE") for stream in STREAMS),
    *(f"$JS.API.CONSUMER.{verb}.{stream}" for verb in ("CREATE", "LIST", "NAMES") for stream in STREAMS),
    *(f"$JS.API.CONSUMER.{verb}.{stream}.c" for verb in ("CREATE", "DURABLE.CREATE", "INFO") for stream in STREAMS),
    "$JS.API.INFO",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.CONSUMER.CREATE.JOBS.other.job.image.build.*",
    "$JS.API.CONSUMER.CREATE.JOBS.job_image_build.job.>",
    "$JS.API.CONSUMER.MSG.NEXT.JOBS.other",
    "$JS.API.CONSUMER.DELETE.JOBS.job_image_build",
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.ACCOUNT.CLUSTER.CONNZ",
    "$SYS.REQ.USER.AUTH",
    *(f"_INBOX.{who}.1.2" for who in sorted(EVERYBODY)),
    "_INBOX.node.n001.1.2",
    "rpc.registry.v1.other",
    "rpc.registry.v1.apply.n001",
    "rpc.other.v1.list",
    "node.n001.other",
    "evt.other.n001.happened",
    "told.other.n001.happened",
    "evt.other.n001.changed",
    "job.image.build",
    "job.other.build.1",
    "anything",
)
"""What nobody may publish."""


def publishing(secrets: Mapping[str, str]) -> dict[str, Who]:
    """Subjects, and who may publish to them; `secrets` are those of the buckets' write subjects."""
    table: dict[str, Who] = dict.fromkeys(FORBIDDEN, NOBODY)
    for one in (*contract.REQUESTS, *contract.EVENTS, *contract.NODE_TOPICS):
        table[concrete(one.subject)] = ends(one.sender)
    table["job.image.build.0011"] = {"registry", "image-builder"}
    table.update(BUCKETS)
    for bucket, secret in secrets.items():
        table[f"$W.{secret}.{bucket}.node.n001"] = {OWNERS[bucket]}
        table.update(dict.fromkeys((f"$W.{secret}.{other}.head" for other in secrets if other != bucket), NOBODY))
    for stream in STREAMS:
        owner = OWNERS.get(stream.removeprefix("KV_"), "registry")
        table[f"$JS.API.STREAM.CREATE.{stream}"] = table[f"$JS.API.STREAM.UPDATE.{stream}"] = {owner}
        table[f"$JS.API.STREAM.INFO.{stream}"] = LOOKING[stream]
        table[f"$JS.API.STREAM.MSG.GET.{stream}"] = GETTING[stream]
        for pattern, who in READING[stream].items():
            table[f"$JS.API.CONSUMER.CREATE.{stream}.mine.{pattern}"] = who
        readers = {reader for who in READING[stream].values() for reader in who}
        for subject in ("$JS.API.CONSUMER.MSG.NEXT.{}.mine", "$JS.API.CONSUMER.DELETE.{}.mine", "$JS.ACK.{}.c.1.1.1"):
            table[subject.format(stream)] = readers
    for subject in ("CREATE.JOBS.job_image_build.job.image.build.*", "MSG.NEXT.JOBS.job_image_build"):
        table[f"$JS.API.CONSUMER.{subject}"] = {"image-builder"}
    table["$JS.ACK.JOBS.job_image_build.1.1.1.1.0"] = {"image-builder"}
    table["$SRV.PING"] = table["$SRV.INFO.dhcp.0011"] = {"operator"}
    return table


def subscribing() -> dict[str, Who]:
    """Subjects, and who may subscribe to them."""
    table: dict[str, Who] = dict.fromkeys(
        (">", "*", "*.>", "_INBOX.>", "_INBOX.*.>", "$JS.>", "$KV.>", "$W.>", "$W.*.records.>", "$SYS.>"), NOBODY
    )
    for pattern in ("rpc.>", "rpc.registry.>", "node.>", "node.*.>", "node.n001.>", "job.>", "$SRV.>", "$KV.secrets.>"):
        table[pattern] = NOBODY
    for one in contract.REQUESTS:
        table[wild(one.subject)] = ends(one.receiver)
    for one in contract.NODE_TOPICS:
        table[wild(one.subject)] = ends(one.receiver)
    for one in contract.EVENTS:
        table[wild(one.subject)] = {"operator"}
    table["evt.>"] = {"operator"}
    table["evt.boot.>"] = table["evt.boot.*.*.*"] = {"operator", "mcastd"}
    table["evt.machine.*.seen"] = {"operator", "registry"}
    for who in EVERYBODY:
        table[f"_INBOX.{who}.>"] = table[f"_INBOX.{who}.0011.*"] = {who}
    for verb in ("PING", "INFO", "STATS"):
        table[f"$SRV.{verb}"] = SERVICES
        for service in SERVICES:
            table[f"$SRV.{verb}.{service}"] = table[f"$SRV.{verb}.{service}.0011"] = {service}
    return table


def concrete(subject: str) -> str:
    """One that a row of the contract stands for."""
    named = {"<node>": "n001", "<stage>": "stage1.start", "<kind>": "template", "<mac>": "525400770011"}
    return re.sub("<[a-z]+>", lambda found: named.get(found[0], "one"), subject)


def wild(subject: str) -> str:
    """All that a row of the contract stands for."""
    return re.sub("<[a-z]+>", "*", subject.replace("<stage>", "*.*"))


def ends(told: str) -> Who:
    """The services and operators that a row of the contract names; nodes have tests of their own."""
    return set(told.split(", ")) - {"node"}
