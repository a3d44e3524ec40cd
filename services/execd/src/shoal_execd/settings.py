"""Settings of the resident agent, from the environment of its unit."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shoal_execd.handover import RUN


class SettingsError(ValueError):
    """A setting is malformed; the text names it and what was expected."""


@dataclass(frozen=True)
class Settings:
    """`heartbeat` in seconds; `commands`: how many run at once; `run`: where the boot left its state."""

    heartbeat: float = 5.0
    commands: int = 8
    run: Path = RUN


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read SHOAL_HEARTBEAT, SHOAL_COMMANDS and SHOAL_RUN. Raises SettingsError."""
    return Settings(
        heartbeat=_number(environment, "SHOAL_HEARTBEAT", Settings.heartbeat, 0.5, 3600),
        commands=int(_number(environment, "SHOAL_COMMANDS", Settings.commands, 1, 256)),
        run=Path(environment.get("SHOAL_RUN", str(Settings.run))),
    )


def _number(environment: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise SettingsError(f"{name} is {text!r}; expected a number from {least:g} to {most:g}")
    return value
