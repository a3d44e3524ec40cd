"""The streams and buckets of Shoal, as JetStream configurations. Pure data; `provision` makes them."""

import re
from collections.abc import Sequence
from typing import Any

from shoal_bus.api import Write
from shoal_bus.errors import Invalid
from shoal_bus.limits import LARGEST_OF_NODES
from shoal_model import permissions, subjects

_DAY = 86_400
_NANOSECONDS = 1_000_000_000
_GIGABYTE = 1 << 30
_HEADERS = 4 << 10
"""Bytes that a message's headers may take besides its body."""

JOB_ATTEMPTS = 5
"""How often a job is tried before it is given up."""
JOB_DELIVERIES = 2 * JOB_ATTEMPTS
"""How often a job is given out at most: beyond `JOB_ATTEMPTS` no longer to be tried, only to be told of."""
JOB_SILENCE = 60.0
"""Seconds after which a job of which nothing is heard goes to another worker."""
BATCH_LIMIT = 900
"""Writes in one batch; the server takes 1,000 messages."""

_BUCKET = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(?:\.[-/_=a-zA-Z0-9]+)*")
_JOB_ID = re.compile(r"[a-zA-Z0-9_=-]{1,128}")
_HISTORY = {subjects.RECORDS_BUCKET: 8}

EVENTS: dict[str, Any] = {
    "name": subjects.EVENTS_STREAM,
    "subjects": [subjects.EVENTS],
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_age": 7 * _DAY * _NANOSECONDS,
    "max_bytes": 2 * _GIGABYTE,
    "duplicate_window": 120 * _NANOSECONDS,
}
"""What happened, a week of it."""

TOLD: dict[str, Any] = {
    "name": subjects.TOLD_STREAM,
    "subjects": [subjects.TOLD],
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "no_ack": True,
    "republish": {"src": subjects.TOLD, "dest": subjects.EVENTS},
    "max_age": 3600 * _NANOSECONDS,
    "max_bytes": _GIGABYTE // 4,
    "max_msg_size": LARGEST_OF_NODES + _HEADERS,
    "duplicate_window": 120 * _NANOSECONDS,
}
"""What nodes tell: each message goes on into EVENTS at once. See `subjects.told`."""

JOBS: dict[str, Any] = {
    "name": subjects.JOBS_STREAM,
    "subjects": [subjects.JOBS],
    "retention": "workqueue",
    "storage": "file",
    "discard": "new",
    "discard_new_per_subject": True,
    "max_msgs_per_subject": 1,
    "max_bytes": _GIGABYTE // 4,
    "duplicate_window": 120 * _NANOSECONDS,
}
"""What is to be done. The last token of a job's subject is its id: the one message that a subject may hold is the job
that waits or runs, and goes when it is done.
"""


def bucket(name: str, secret: str | None = None) -> dict[str, Any]:
    """The stream that holds a bucket, as the NATS clients' key-value stores lay it out (ADR-8).

    With a secret it takes what comes to `permissions.write_subject`, and stores that as if it had come to `$KV.<name>`.
    """
    if not _BUCKET.fullmatch(name):
        raise Invalid(f"{name!r} cannot name a bucket: use letters, digits, dashes and underscores")
    written = f"{permissions.write_subject(name, secret)}.>"
    return {
        "name": stream_of(name),
        "subjects": [written],
        "subject_transform": None if secret is None else {"src": written, "dest": keys(name)},
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": _HISTORY.get(name, 1),
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_atomic": True,
        "allow_direct": False,
        "duplicate_window": 120 * _NANOSECONDS,
    }


def stream_of(name: str) -> str:
    """The stream of a bucket."""
    return f"KV_{name}"


def keys(name: str) -> str:
    """Where all keys of a bucket are read."""
    return f"$KV.{name}.>"


def key(value: str) -> str:
    """`value` if it may be a key of a bucket; else Invalid."""
    if len(value) > 512 or not _KEY.fullmatch(value):
        raise Invalid(f"{value!r} cannot be a key: use letters, digits and -/_= in tokens with dots between them")
    return value


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one that a subscription to `pattern` hears."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > index
        if index >= len(tokens) or token not in ("*", tokens[index]):
            return False
    return len(wanted) == len(tokens)


def check(writes: Sequence[Write]) -> None:
    """Raise Invalid for what cannot be one batch, whatever the bucket holds."""
    if not 1 <= len(writes) <= BATCH_LIMIT:
        raise Invalid(f"a batch has 1 to {BATCH_LIMIT} writes, not {len(writes)}")
    seen: set[str] = set()
    for write in writes:
        if key(write.key) in seen:
            raise Invalid(f"key {write.key!r} stands twice in one batch")
        seen.add(write.key)


def job_subject(subject: str, identity: str) -> str:
    """Where a job waits. Raises Invalid if the id cannot stand in a subject."""
    if not _JOB_ID.fullmatch(identity):
        raise Invalid(f"{identity!r} cannot be a job's id: use up to 128 letters, digits, dashes, underscores")
    return f"{subject}.{identity}"


def job_filter(subject: str) -> str:
    """What a worker for `subject` takes: a pattern that ends in `>` stays, anything else gets a token for the id."""
    return subject if subject.endswith(">") else f"{subject}.*"


def job_worker(subject: str) -> dict[str, Any]:
    """The consumer that all workers for `subject` share."""
    name = re.sub(r"[^a-z0-9-]+", "_", subject.replace(">", "all").replace("*", "any"))
    return {
        "name": name,
        "durable_name": name,
        "filter_subject": job_filter(subject),
        "ack_policy": "explicit",
        "ack_wait": int(JOB_SILENCE * _NANOSECONDS),
        "deliver_policy": "all",
        "max_deliver": -1,  # counted by us: the server would keep a job it gives up, and block its id for ever
        "max_ack_pending": 1000,
    }
