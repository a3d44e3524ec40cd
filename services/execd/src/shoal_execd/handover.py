"""What one stage leaves to the next, under `/run/shoal`:

    boot.json     what is known of this boot; no secret
    ca.crt        what the node trusts
    secret/key    the seed of its key, in a file system that is never swapped

With the key alone, the stages to come prove that they are this node.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shoal_execd.identity import Identity
from shoal_identity import trust
from shoal_identity.keys import Key, KeyProblem

RUN = Path("/run/shoal")
BOOT_FILE = "boot.json"
CA_FILE = "ca.crt"
SECRET = "secret"
_KEY_FILE = "key"
GENERATION_FILE = "generation"


class HandoverError(Exception):
    """The state of the stage before is missing or damaged; the text names the file."""


@dataclass(frozen=True)
class BootState:
    """A boot, as stage 1 found it. `unsent` are messages (subject, map) that the head has not got yet."""

    node: str
    boot: str
    nats: list[str]
    head: str
    address: str
    sources: list[str]
    image: str
    tmp_size: str
    stage1_log: str
    unsent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def save(state: BootState, run: Path = RUN) -> None:
    """Write the state for the stages to come, readable by root alone."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / f".{BOOT_FILE}"
    path.write_text(json.dumps(asdict(state), indent=1))
    path.chmod(0o600)
    os.replace(path, run / BOOT_FILE)


def load(run: Path = RUN) -> BootState:
    """Read what the stage before left. Raises HandoverError."""
    path = run / BOOT_FILE
    try:
        data = json.loads(path.read_text())
        data["unsent"] = [(subject, message) for subject, message in data["unsent"]]
        return BootState(**data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HandoverError(f"{path} is missing or damaged: {error}") from error


def save_identity(identity: Identity, run: Path = RUN) -> None:
    """Leave key and trust for the stages to come, the key readable by root alone. Raises OSError."""
    (run / SECRET).mkdir(mode=0o700, parents=True, exist_ok=True)
    identity.key.write(run / SECRET / _KEY_FILE)
    (run / CA_FILE).write_bytes(identity.trust.dump())


def load_identity(state: BootState, run: Path = RUN) -> Identity | None:
    """Key and trust as stage 1 left them; None where the bus has no TLS, and nothing is proven.

    Raises HandoverError if they are missing or damaged, or if others may read the key.
    """
    if not any(server.startswith("tls://") for server in state.nats):
        return None
    try:
        return Identity(Key.read(run / SECRET / _KEY_FILE), trust.parse((run / CA_FILE).read_bytes()))
    except (KeyProblem, trust.BadTrust, OSError) as error:
        raise HandoverError(f"this node cannot prove who it is any more: {error}") from None
