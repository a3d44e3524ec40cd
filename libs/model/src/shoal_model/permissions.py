"""What each connection may publish and subscribe to: the contract seen from one end, and JetStream's own subjects.

A service sends what `contract` says it sends and hears what it says it receives; nothing is spelled here that stands
there. Which streams and buckets it uses stands here. Only what may is listed: the rest is refused by the server.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shoal_model import contract, names, subjects
from shoal_model.contract import NODE, OPERATOR, Subject
from shoal_model.records import Kind
from shoal_model.subjects import Service

PRINCIPALS: tuple[str, ...] = (*Service, OPERATOR)
"""Whoever has a key of its own in the server's configuration. Nodes have theirs by the word of auth."""


@dataclass(frozen=True)
class Responses:
    """One may answer a message at the inbox it names: so often, and for so many seconds after it came."""

    max: int
    expires: int


ANSWERS = Responses(max=1, expires=7200)
"""A remote command may run long, and so may the request that asked for it."""


@dataclass(frozen=True)
class Permissions:
    """Subjects, with `*` and `>`, that a connection may publish and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responses: Responses | None = ANSWERS


@dataclass(frozen=True)
class Bucket:
    """A bucket that somebody follows, and the keys that it writes there. Who writes may also look single keys up."""

    name: str
    keys: tuple[str, ...] = ()


_RECORDS = Bucket(subjects.RECORDS_BUCKET)
BUCKETS: Mapping[str, tuple[Bucket, ...]] = {
    Service.REGISTRY: (
        Bucket(subjects.RECORDS_BUCKET, (">",)),
        Bucket(subjects.STATE_BUCKET, ("registry.>", "machine.>")),
        Bucket(subjects.SECRETS_BUCKET, (">",)),
    ),
    Service.AUTH: (_RECORDS, Bucket(subjects.IDENTITY_BUCKET, (">",))),
    Service.FLEET: (_RECORDS, Bucket(subjects.STATE_BUCKET, ("fleet.>", "exec.>"))),
    Service.DHCP: (_RECORDS,),
    Service.TFTP: (_RECORDS,),
    Service.MCASTD: (_RECORDS,),
    Service.EXECD_CONFIG: (_RECORDS,),
}
"""Who uses which bucket."""
OWNERS: Mapping[str, str] = {
    bucket.name: principal for principal, used in BUCKETS.items() for bucket in used if bucket.keys == (">",)
}
"""Buckets that one service alone writes, and that service. Only it knows where: see `write_subject`."""

_STORED_EVENTS: frozenset[str] = frozenset({Service.FLEET, OPERATOR})
"""Who reads its events from the stream; the others hear them as they are sent."""
_STREAMS = (subjects.EVENTS_STREAM, subjects.JOBS_STREAM, f"KV_{subjects.STATE_BUCKET}")
"""Anybody may learn how these are."""


def of(principal: str, secrets: Mapping[str, str] | None = None) -> Permissions:
    """What a service or an operator may do. Raises KeyError for nobody we know.

    `secrets` are those of the write subjects of buckets, by bucket; one without is written where it is read.
    """
    if principal not in PRINCIPALS:
        raise KeyError(principal)
    publish = [*_sent(principal), *_jetstream(principal, secrets or {})]
    subscribe = [*_heard(principal), f"{subjects.inbox(principal)}.>"]
    if principal == OPERATOR:  # asks services about themselves, and is asked nothing
        return Permissions(_each_once([*publish, "$SRV.>"]), _each_once(subscribe), None)
    return Permissions(_each_once(publish), _each_once([*subscribe, *_introductions(principal)]))


def node(identity: str) -> Permissions:
    """What a node may do: speak for itself, and hear what is meant for it. Raises ValueError if this is no node id."""
    name = names.name(identity)
    inbox = f"{subjects.inbox(NODE, name)}.>"
    heard = [pattern(one.subject, name) for one in contract.NODE_TOPICS if _is_end(NODE, one.receiver)]
    sent = [pattern(one.subject, name) for one in _subjects() if _is_end(NODE, one.sender)]
    sent = [subjects.told(one) if one.startswith("evt.") else one for one in sent]
    return Permissions(_each_once(sent), _each_once([*heard, inbox]))


def owned(principal: str) -> tuple[str, ...]:
    """The buckets that this principal alone writes."""
    return tuple(bucket for bucket, owner in OWNERS.items() if owner == principal)


def write_subject(bucket: str, secret: str | None) -> str:
    """Where a bucket is written: `$W.<secret>.<bucket>`, or `$KV.<bucket>` where it is read, before the key.

    The server stores what comes to a stream's subjects, and sends answers of its own to whatever subject one names,
    without asking whether one may publish there. So `$KV.<bucket>` is no subject of a bucket that one service alone
    writes: what it publishes where only it can is stored as if it had come there.
    """
    return f"$KV.{bucket}" if secret is None else f"$W.{secret}.{bucket}"


def pattern(subject: str, node: str | None = None) -> str:
    """A subject of the contract with `*` for what stands for one token; `<node>` is `node` where one is given.

    A stage has two tokens: `evt.boot.<node>.<stage>` is `evt.boot.>`, or `evt.boot.n001.>`.
    """
    with_node = subject if node is None else subject.replace("<node>", node)
    wild = re.sub(r"<[a-z]+>", "*", with_node.replace("<stage>", ">"))
    return re.sub(r"(?:\*\.)+>$", ">", wild)


def _sent(principal: str) -> Iterator[str]:
    for one in (*contract.REQUESTS, *contract.EVENTS, *contract.NODE_TOPICS):
        if _is_end(principal, one.sender):
            kinds = tuple(Kind) if "<kind>" in one.subject else ("",)
            yield from (pattern(one.subject.replace("<kind>", kind)) for kind in kinds)
    for one in contract.JOBS:
        if _is_end(principal, one.sender):
            yield _job(one)


def _heard(principal: str) -> Iterator[str]:
    if principal == OPERATOR:
        yield subjects.EVENTS
    heard = (*contract.REQUESTS, *contract.NODE_TOPICS)
    for one in heard if principal in _STORED_EVENTS else (*heard, *contract.EVENTS):
        if _is_end(principal, one.receiver):
            yield pattern(one.subject)


def _jetstream(principal: str, secrets: Mapping[str, str]) -> Iterator[str]:
    if principal != OPERATOR:
        yield from (f"$JS.API.STREAM.INFO.{stream}" for stream in _STREAMS)
    yield from (f"$JS.API.STREAM.{verb}.{s}" for s in _created(principal) for verb in ("INFO", "CREATE", "UPDATE"))
    if principal in _STORED_EVENTS:
        yield f"$JS.API.STREAM.INFO.{subjects.EVENTS_STREAM}"
        yield from _following(subjects.EVENTS_STREAM, _stored_events(principal))
    for bucket in BUCKETS.get(principal, ()):
        stream = f"KV_{bucket.name}"
        yield from _following(stream, [f"$KV.{bucket.name}.>"])
        if bucket.keys:
            yield f"$JS.API.STREAM.MSG.GET.{stream}"
            subject = write_subject(bucket.name, secrets.get(bucket.name))
            yield from (f"{subject}.{keys}" for keys in bucket.keys)
    for one in contract.JOBS:
        if _is_end(principal, one.receiver):
            yield from _working(one)


def _created(principal: str) -> Iterable[str]:
    """Who writes a bucket alone makes it, for how a stream is tells its write subject. Registry makes all others."""
    others = (*_STREAMS, subjects.TOLD_STREAM) if principal == Service.REGISTRY else ()
    return (*others, *(f"KV_{bucket}" for bucket in owned(principal)))


def _stored_events(principal: str) -> Iterable[str]:
    if principal == OPERATOR:
        return [subjects.EVENTS]
    return [pattern(one.subject) for one in contract.EVENTS if _is_end(principal, one.receiver)]


def _following(stream: str, filters: Iterable[str]) -> Iterator[str]:
    """Read a stream with consumers that see nothing but these subjects. The server holds a consumer to its filter, as
    it is named in the request's subject (ADR-37). `$JS.ACK` is never used: as every message of a stream names a subject
    there to answer at, the server would note each as one that may be answered (measured: 300 bytes, for two hours).
    """
    yield from (f"$JS.API.CONSUMER.CREATE.{stream}.*.{one}" for one in filters)
    yield f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*"
    yield f"$JS.API.CONSUMER.DELETE.{stream}.*"
    yield f"$JS.ACK.{stream}.>"


def _working(one: Subject) -> Iterator[str]:
    """Take jobs from the consumer that all workers share, and say how they went."""
    stream, worker = subjects.JOBS_STREAM, one.subject.replace(".", "_")
    yield f"$JS.API.CONSUMER.CREATE.{stream}.{worker}.{_job(one)}"
    yield f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{worker}"
    yield f"$JS.ACK.{stream}.{worker}.>"


def _job(one: Subject) -> str:
    """The last token of a job's subject is its id."""
    return f"{pattern(one.subject)}.*"


def _introductions(service: str) -> Iterator[str]:
    """What the tools for NATS ask a service for (ADR-32)."""
    for verb in ("PING", "INFO", "STATS"):
        yield from (f"$SRV.{verb}", f"$SRV.{verb}.{service}", f"$SRV.{verb}.{service}.*")


def _subjects() -> Iterable[Subject]:
    return (*contract.REQUESTS, *contract.EVENTS, *contract.NODE_TOPICS)


def _is_end(principal: str, ends: str) -> bool:
    return principal in ends.split(", ")


def _each_once(subjects_: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subjects_))
