"""What state a node is in, from its boot events and heartbeats. Pure: time is an argument.

unknown   nothing was ever heard
booting   a boot began, and something was heard of it lately
failed    the last thing heard of the boot was a failure, or nothing was heard of it for too long
up        it runs: a heartbeat came lately
lost      it ran, and heartbeats stopped
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from shoal_model.messages import Boot, Heartbeat, NodeState, Status
from shoal_model.subjects import Stage


@dataclass(frozen=True)
class Limits:
    """After how long silence means something."""

    lost: timedelta = timedelta(seconds=20)
    stalled: timedelta = timedelta(minutes=15)


@dataclass(frozen=True)
class Sign:
    """A sign of life: the boot it came from, and when it was heard, by the head's clock."""

    boot: str
    at: datetime
    heartbeat: Heartbeat | None = None


@dataclass(frozen=True)
class Verdict:
    """The state of a node, and the boot and stage it is about."""

    state: NodeState
    boot: str | None = None
    stage: Stage | None = None


@dataclass(frozen=True)
class Standing:
    """A verdict, and since when its state and boot are what they are: what is stored of a node."""

    verdict: Verdict
    since: datetime


def judge(boot: Boot | None, sign: Sign | None, now: datetime, limits: Limits) -> Verdict:
    """What the latest boot and the latest sign of life say."""
    stage = boot.events[-1].stage if boot is not None and boot.events else None
    sign = _running(boot, sign, now)
    if sign is not None and (boot is None or _outweighs(sign, boot, now, limits)):
        state = NodeState.UP if now - sign.at <= limits.lost else NodeState.LOST
        return Verdict(state, sign.boot, stage if boot is not None and boot.boot == sign.boot else None)
    if boot is None or not boot.events:
        return Verdict(NodeState.UNKNOWN)
    last = boot.events[-1]
    stalled = now - min(last.at, now) > limits.stalled
    state = NodeState.FAILED if last.status is Status.FAILED or stalled else NodeState.BOOTING
    return Verdict(state, boot.boot, stage)


def _running(boot: Boot | None, sign: Sign | None, now: datetime) -> Sign | None:
    """The latest sign of life: a boot that reached systemd gave one, too."""
    if boot is None or boot.boot is None or (sign is not None and sign.boot == boot.boot):
        return sign
    for event in boot.events:
        if event.stage is Stage.SYSTEMD_RUNNING and event.status is not Status.FAILED:
            return Sign(boot.boot, min(event.at, now))
    return sign


def _outweighs(sign: Sign, boot: Boot, now: datetime, limits: Limits) -> bool:
    """Whether the sign is of this boot, or of a later one that we know nothing else of. Where somebody on a running
    node asks for an address, the node stays up: it is a boot only once the heartbeats stop.
    """
    fresh = boot.boot is None and now - sign.at <= limits.lost
    return sign.boot == boot.boot or fresh or not boot.events or boot.events[0].at < sign.at


def next_standing(known: Standing | None, verdict: Verdict, now: datetime) -> Standing:
    """The standing that follows. Moving on by a stage is no new one."""
    if known is not None and same(known.verdict, verdict):
        return Standing(verdict, known.since)
    return Standing(verdict, now)


def same(one: Verdict, other: Verdict) -> bool:
    """Whether both are of one state and one boot: nothing to store."""
    return (one.state, one.boot) == (other.state, other.boot)
