"""The heartbeat: that this node is there, and how it fares."""

from pathlib import Path
from typing import Any

from shoal_execd import RELEASE, clock
from shoal_execd.handover import GENERATION_FILE, BootState


def heartbeat(state: BootState, run: Path, proc: Path = Path("/proc")) -> dict[str, Any]:
    """A `Heartbeat` message. Raises OSError, ValueError if /proc is not as proc(5) says."""
    memory = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
    generation = run / GENERATION_FILE
    return {
        "node": state.node,
        "boot": state.boot,
        "at": clock.stamp(),
        "uptime": float((proc / "uptime").read_text().split()[0]),
        "load": float((proc / "loadavg").read_text().split()[0]),
        "memory_total": _kilobytes(memory["MemTotal"]),
        "memory_available": _kilobytes(memory["MemAvailable"]),
        "image": state.image,
        "generation": generation.read_text().strip() if generation.is_file() else None,
        "release": RELEASE,
    }


def _kilobytes(text: str) -> int:
    return int(text.split()[0]) * 1024
