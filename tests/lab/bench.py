"""`python -m lab.bench [NAME…]`: ours beside others in one go. Prints ratios and writes build/bench.json.

What is compared runs in turn on the same machine, so that the ratio says something where the time says nothing.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab import storming
from lab.storming import Outcome, Storming

RESULTS = Path(__file__).parents[2] / "build" / "bench.json"
_ARRIVAL = 10.0
_WITHIN = 120.0
_RUNS = 3


@dataclass(frozen=True)
class Line:
    """One comparison: medians of `runs`, and which of them is better."""

    name: str
    peer: str
    ours: float
    theirs: float
    unit: str
    better: str
    runs: int

    def __str__(self) -> str:
        ratio = self.ours / self.theirs if self.theirs else float("nan")
        told = f"{self.ours:10.2f} {self.unit:<4} {self.peer}: {self.theirs:.2f} {self.unit}"
        return f"{self.name:<28}{told}   ratio {ratio:.2f} ({self.better} is better)"


async def storm(agents: int, runs: int) -> list[Line]:
    """Agents that arrive within ten seconds: with TLS, keys, boot tokens and the callout, and with none of it."""
    ours = [await _once(lambda folder: storming.guarded(folder, agents), agents) for _ in range(runs)]
    theirs = [await _once(storming.open_bus, agents) for _ in range(runs)]

    def line(name: str, value: Callable[[Outcome], float]) -> Line:
        own, other = (statistics.median(map(value, outcomes)) for outcomes in (ours, theirs))
        return Line(f"storm.{agents}{name}", "bus without TLS and callout", own, other, "s", "lower", runs)

    return [
        line("", lambda outcome: outcome.wall),
        line(".wait.median", lambda outcome: statistics.median(outcome.seconds)),
        line(".wait.longest", lambda outcome: max(outcome.seconds)),
        line(".cpu.agents", lambda outcome: outcome.cpu["agents"]),
        line(".cpu.nats-server", lambda outcome: outcome.cpu["nats-server"]),
        line(".cpu.auth", lambda outcome: outcome.cpu.get("auth", 0.0) + outcome.cpu.get("auth-2", 0.0)),
    ]


async def _once(made: Callable[[Path], AbstractAsyncContextManager[Storming]], agents: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        async with made(Path(folder)) as storming_:
            outcome = await storming_.run(agents, spread=_ARRIVAL, within=_WITHIN)
    if outcome.failures or len(outcome.seconds) != agents:
        raise RuntimeError(f"{agents - len(outcome.seconds)} of {agents} agents are not in: {outcome.failures[:3]}")
    return outcome


BENCHMARKS: dict[str, Callable[[int], Coroutine[Any, Any, list[Line]]]] = {
    "storm.1000": lambda runs: storm(1000, runs),
    "storm.5000": lambda runs: storm(5000, runs),
}


def main(names: Sequence[str]) -> int:
    """Run those named, or all."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    results: list[Line] = []
    for name in names or BENCHMARKS:
        for line in asyncio.run(BENCHMARKS[name](_RUNS)):
            print(line, flush=True)
            results.append(line)
    write(results)
    return 0


def write(results: Iterable[Line]) -> None:
    """Leave the results where they are looked for."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(line) for line in results], indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
