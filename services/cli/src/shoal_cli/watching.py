"""Many boots as they happen: what is known of each node, and how it is shown."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shoal_cli.terminal import local, safe
from shoal_cli.timeline import LAST, STAGES, describe
from shoal_model.messages import BootEvent, Status
from shoal_model.subjects import Stage

SETTLED = 90.0
"""Seconds without news after which a failure is the end: a node tries its sources again after a minute at most."""
_COLOURS = {Status.OK: "green", Status.DEGRADED: "yellow", Status.FAILED: "red"}


@dataclass(frozen=True)
class Progress:
    """Where one node is in its boot: its latest event and when that was heard (seconds of the watcher's clock), when
    the boot began, the number of the last stage that did not fail, and what went other than planned.
    """

    latest: BootEvent
    started: datetime
    heard: float
    reached: int = -1
    remarks: tuple[str, ...] = ()

    def seconds(self, now: datetime) -> float:
        """How long this boot has been going on, or how long it took."""
        over = self.failed or self.latest.stage is LAST
        return max(0.0, ((self.latest.at if over else now) - self.started).total_seconds())

    def fraction(self) -> float:
        """How far through the stages, 0 to 1."""
        return STAGES.index(self.latest.stage) / (len(STAGES) - 1)

    def arrived(self, until: Stage) -> bool:
        """Whether it reached `until` or went past it."""
        return self.reached >= STAGES.index(until)

    @property
    def failed(self) -> bool:
        """Whether its latest event is a failure."""
        return self.latest.status is Status.FAILED


@dataclass
class Watch:
    """The progress of every node heard of, and of those waited for."""

    waited_for: tuple[str, ...] = ()
    nodes: dict[str, Progress] = field(default_factory=dict)

    def hear(self, event: BootEvent, now: float) -> None:
        """Take note of one event. A DHCP offer after the loader had its configuration begins a new boot."""
        known = self.nodes.get(event.node)
        if known is None or _begins_anew(known.latest, event):
            known = Progress(event, event.at, now)
        elif _follows(known.latest, event):
            known = replace(known, latest=event, heard=now)
        if event.status is not Status.FAILED:
            known = replace(known, reached=max(known.reached, STAGES.index(event.stage)))
        if event.status is not Status.OK:
            known = replace(known, remarks=(*known.remarks, f"{event.stage}: {event.reason or event.status}"))
        self.nodes[event.node] = known

    def settles(self, until: Stage) -> float | None:
        """When it is certain of every node waited for that it reached `until` or failed for good, if no more is heard:
        a time of the clock given to `hear`. None while one of them is on its way.
        """
        latest = float("-inf")
        for node in self.waited_for:
            known = self.nodes.get(node)
            if known is not None and known.arrived(until):
                continue
            if known is None or not known.failed:
                return None
            latest = max(latest, known.heard + SETTLED)
        return latest

    def missing(self, until: Stage) -> list[str]:
        """The nodes waited for that did not reach `until`."""
        return [node for node in self.waited_for if node not in self.nodes or not self.nodes[node].arrived(until)]


def line(event: BootEvent) -> str:
    """One event as one line: time, node, stage, status where it is not ok, details, reason."""
    told = [f"{local(event.at):%H:%M:%S}", f"{event.node:<12}", f"{event.stage:<16}"]
    if event.status is not Status.OK:
        told.append(event.status.upper())
    details = describe(event)
    told.extend(part for part in (details, safe(event.reason or "")) if part)
    return "  ".join(told).rstrip()


def board(watch: Watch, names: Iterable[str], now: datetime) -> Table:
    """The nodes as a table that is redrawn: node, bar, stage, seconds, details and remarks."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title, width in (("NODE", None), ("", 24), ("STAGE", 16), ("TIME", 8), ("", None)):
        table.add_column(title, width=width, no_wrap=True, overflow="ellipsis")
    for name in names:
        table.add_row(*_row(name, watch.nodes.get(name), now))
    return table


def _row(name: str, progress: Progress | None, now: datetime) -> tuple[Text | ProgressBar, ...]:
    if progress is None:
        return Text(name), ProgressBar(total=1, completed=0, width=24), Text("waiting", "dim"), Text(""), Text("")
    event = progress.latest
    colour = _COLOURS[event.status] if event.stage is LAST or event.status is not Status.OK else "cyan"
    remark = progress.remarks[-1] if progress.remarks else ""
    return (
        Text(name, "bold"),
        ProgressBar(total=1, completed=progress.fraction(), width=24, complete_style=colour),
        Text(event.stage, colour),
        Text(f"{progress.seconds(now):6.1f} s"),
        Text(safe(remark) or describe(event), "yellow" if remark else "dim"),
    )


def _follows(latest: BootEvent, event: BootEvent) -> bool:
    """Whether an event of the same boot is news. Events come over several ways, late ones after later ones, and the
    clocks of node and head differ: so stages count first. Only a failure, and what is done about it, leads back.
    """
    step = STAGES.index(event.stage) - STAGES.index(latest.stage)
    back = Status.FAILED in (latest.status, event.status)
    return step > 0 or (event.at >= latest.at and (step == 0 or back))


def _begins_anew(latest: BootEvent, event: BootEvent) -> bool:
    if event.boot is not None and latest.boot is not None:
        return event.boot != latest.boot
    begins = event.stage is Stage.DHCP_OFFER
    return begins and STAGES.index(latest.stage) >= STAGES.index(Stage.STAGE1_START)
