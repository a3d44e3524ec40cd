"""The story of one boot, from its events: how long each stage took, whether it arrived, where and why it stopped."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from shoal_cli.terminal import safe, size
from shoal_model.messages import Boot, BootEvent, Status
from shoal_model.subjects import Stage

STAGES = list(Stage)
LAST = STAGES[-1]
PATIENCE = timedelta(seconds=180)
"""A boot without an event for so long is said to have stopped."""

_HINTS = {
    Stage.DHCP_OFFER: "the node was offered an address and took none: is there another DHCP server in its network?",
    Stage.DHCP_ACK: "it has its address and asks for no loader: does its firmware reach the head over TFTP or HTTP?",
    Stage.LOADER_CONFIG: "it read its boot configuration and asks for no kernel: is its image built and published?",
    Stage.LOADER_KERNEL: "it has the kernel and asks for no initrd: look at its console",
    Stage.LOADER_INITRD: "kernel and initrd are there, and stage 1 does not report: look at its console; "
    "boot it with the kernel parameter `debug`",
    Stage.STAGE1_START: "stage 1 runs and has no network: is there a driver for the NIC with this MAC in the image?",
    Stage.STAGE1_NETWORK: "it has a network and no bus: is port 4222 of the head reachable from the boot network?",
}


@dataclass(frozen=True)
class Step:
    """One line of a timeline. Times in seconds: since the first event, and what this stage took."""

    stage: Stage
    status: Status
    since_start: float
    took: float
    reason: str | None
    details: str


@dataclass(frozen=True)
class Verdict:
    """How a boot stands: arrived, failed, stopped or still on its way, and a sentence that says so."""

    arrived: bool
    failed: bool
    text: str


def steps(boot: Boot) -> list[Step]:
    """The stages of a boot in order; repeated progress reports are one step with the last one's details."""
    events = condensed(boot.events)
    result: list[Step] = []
    for before, event in zip([events[0], *events], events, strict=False):
        result.append(
            Step(
                stage=event.stage,
                status=event.status,
                since_start=(event.at - events[0].at).total_seconds(),
                took=(event.at - before.at).total_seconds(),
                reason=event.reason,
                details=describe(event),
            )
        )
    return result


def condensed(events: list[BootEvent]) -> list[BootEvent]:
    """Events with each run of the same stage and status kept as its last one."""
    result: list[BootEvent] = []
    for event in events:
        same = result and (result[-1].stage, result[-1].status) == (event.stage, event.status)
        if same and event.stage is Stage.IMAGE_PROGRESS:
            result[-1] = event
        else:
            result.append(event)
    return result


def verdict(boot: Boot, now: datetime) -> Verdict:
    """Where this boot got to and, if it did not arrive, why as far as its events tell."""
    last = boot.events[-1]
    whole = (last.at - boot.events[0].at).total_seconds()
    if any(event.stage is LAST and event.status is not Status.FAILED for event in boot.events):
        worse = [event for event in boot.events if event.status is not Status.OK]
        remarks = "; ".join(f"{event.stage}: {_reason(event)}" for event in worse)
        told = f"; not as planned: {remarks}" if worse else ""
        return Verdict(True, False, f"{boot.node} is up: {whole:.1f} s from {boot.events[0].stage} to {LAST}{told}")
    if last.status is Status.FAILED:
        return Verdict(False, True, f"{boot.node} failed at {last.stage}: {_reason(last)}")
    failed = next((event for event in reversed(boot.events) if event.status is Status.FAILED), None)
    before = "" if failed is None else f"; before that {failed.stage} failed: {_reason(failed)}"
    quiet = now - last.at
    if quiet < PATIENCE:
        return Verdict(False, False, f"{boot.node} is booting: {last.stage} {quiet.total_seconds():.0f} s ago{before}")
    hint = _HINTS.get(last.stage, f"{_after(last.stage)} never came: look at its log below and at its console")
    return Verdict(False, True, f"{boot.node} stopped after {last.stage}, {_ago(quiet)} ago: {hint}{before}")


def describe(event: BootEvent) -> str:
    """An event's details as `key value` pairs, sizes and fractions for people."""
    told = []
    for key, value in event.details.items():
        if key == "fraction" and isinstance(value, int | float):
            told.append(f"{value:.0%}")
        elif key == "percent":
            told.append(f"{value}%")
        elif key in {"size", "bytes", "sent", "received"} and isinstance(value, int):
            told.append(f"{key} {size(value)}")
        elif isinstance(value, float):
            told.append(f"{safe(key)} {value:.2f}")
        else:
            told.append(f"{safe(key)} {_short(safe(str(value)))}")
    return ", ".join(told)


def _reason(event: BootEvent) -> str:
    return safe(event.reason or "no reason given")


def _short(text: str) -> str:
    return f"{text[:12]}…" if len(text) == 64 and not set(text) - set("0123456789abcdef") else text


def _after(stage: Stage) -> str:
    return STAGES[min(STAGES.index(stage) + 1, len(STAGES) - 1)]


def _ago(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172800 else f"{seconds // 86400} days"
