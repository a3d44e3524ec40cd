"""What one stage leaves to the next: `/run/shoal/boot.json`."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RUN = Path("/run/shoal")
BOOT_FILE = "boot.json"
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
