"""What a service tells of itself to the tools for NATS: the JSON of ADR-32 (`nats micro ls|info|stats`). Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

VERBS = ("PING", "INFO", "STATS")
_ENDPOINT_NAME = re.compile(r"[^a-zA-Z0-9_-]+")


@dataclass
class EndpointStats:
    """What one endpoint has done so far; time in nanoseconds."""

    subject: str
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    nanoseconds: int = 0

    def count(self, nanoseconds: int, error: str | None) -> None:
        """One more request, and the error it ended in, if it did."""
        self.requests += 1
        self.nanoseconds += nanoseconds
        if error is not None:
            self.errors += 1
            self.last_error = error


@dataclass
class Identity:
    """A running instance of a service."""

    name: str
    id: str
    version: str
    started: datetime
    endpoints: Sequence[EndpointStats] = field(default_factory=list)


def subjects(identity: Identity) -> list[str]:
    """Every subject on which an instance is asked about itself."""
    tails = ("", f".{identity.name}", f".{identity.name}.{identity.id}")
    return [f"$SRV.{verb}{tail}" for verb in VERBS for tail in tails]


def answer(identity: Identity, subject: str) -> bytes:
    """The body for a question on one of `subjects`."""
    verb = subject.split(".")[1]
    body = _head(identity, verb.lower())
    if verb == "INFO":
        body.update(
            description=f"Shoal {identity.name}", endpoints=[_endpoint(e, identity) for e in identity.endpoints]
        )
    elif verb == "STATS":
        started = identity.started.astimezone(UTC).isoformat().replace("+00:00", "Z")
        body.update(started=started, endpoints=[_stats(e, identity) for e in identity.endpoints])
    return json.dumps(body).encode()


def _head(identity: Identity, kind: str) -> dict[str, Any]:
    metadata: Mapping[str, str] = {}
    return {
        "type": f"io.nats.micro.v1.{kind}_response",
        "name": identity.name,
        "id": identity.id,
        "version": identity.version,
        "metadata": metadata,
    }


def _endpoint(endpoint: EndpointStats, identity: Identity) -> dict[str, Any]:
    return {
        "name": _ENDPOINT_NAME.sub("_", endpoint.subject.replace("*", "all")),
        "subject": endpoint.subject,
        "queue_group": identity.name,
        "metadata": {},
    }


def _stats(endpoint: EndpointStats, identity: Identity) -> dict[str, Any]:
    return {
        **{key: value for key, value in _endpoint(endpoint, identity).items() if key != "metadata"},
        "num_requests": endpoint.requests,
        "num_errors": endpoint.errors,
        "last_error": endpoint.last_error,
        "processing_time": endpoint.nanoseconds,
        "average_processing_time": endpoint.nanoseconds // max(endpoint.requests, 1),
    }
