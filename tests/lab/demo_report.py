"""What the demo leaves behind: stage times as a table, and everything as JSON. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shoal_cli.terminal import table
from shoal_model.subjects import Stage


@dataclass(frozen=True)
class Options:
    """What a node was given: its generation, and the digest of every file by its path."""

    generation: str
    files: dict[str, str]


@dataclass
class Report:
    """`boots` as `shoal boot why -o json` says them, by node."""

    boots: Mapping[str, Any]
    options: dict[str, Options] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)

    def data(self, states: Any) -> dict[str, Any]:  # noqa: ANN401 - parsed JSON
        """The report: per node its stages with times, the image's digest, the options; and the multicast sessions."""
        beats = {state["node"]: state.get("heartbeat", {}) for state in states}
        nodes = {
            name: {
                "boot": boot.get("boot"),
                "verdict": boot["verdict"],
                "stages": stages(boot),
                "image": beats.get(name, {}).get("image"),
                "options": {
                    "generation": self.options[name].generation,
                    "applied": beats.get(name, {}).get("generation"),
                    "files": self.options[name].files,
                },
            }
            for name, boot in self.boots.items()
        }
        return {"nodes": nodes, "sessions": self.sessions}


def options_of(preview: Any) -> Options:  # noqa: ANN401 - parsed JSON
    """The options in what `shoal preview -o json` says. Of two files with one path the last counts, as on the node."""
    files = {entry["path"]: entry["sha256"] for entry in preview["files"] if entry["kind"] == "file"}
    return Options(preview["generation"], files)


def stages(boot: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - parsed JSON
    """A boot's stages in order of time, each once, as it was first reached: name, time, seconds since the first one.

    `systemd.running` comes last.
    """
    first: dict[str, dict[str, Any]] = {}
    start = datetime.fromisoformat(boot["events"][0]["at"])
    for event in boot["events"]:
        seconds = (datetime.fromisoformat(event["at"]) - start).total_seconds()
        told = {"stage": event["stage"], "at": event["at"], "seconds": round(seconds, 3), "status": event["status"]}
        first.setdefault(event["stage"], told)
    return sorted(first.values(), key=lambda told: (told["stage"] == Stage.SYSTEMD_RUNNING, told["seconds"]))


def stage_table(boots: Mapping[str, Any]) -> list[str]:
    """Stages in their normal order against nodes, as lines: seconds since the node's first event."""
    times = {name: {told["stage"]: told["seconds"] for told in stages(boot)} for name, boot in boots.items()}
    rows = [
        [str(stage), *(f"{times[name][stage]:8.1f}" if stage in times[name] else "       -" for name in boots)]
        for stage in Stage
        if any(stage in reached for reached in times.values())
    ]
    return table(["STAGE", *(f"{name:>8}" for name in boots)], rows)
