"""What the bus is told: alarms about attempts, failed boots, changes. Pure."""

from dataclasses import dataclass
from datetime import datetime

from shoal_auth.limits import Bucket, Buckets
from shoal_auth.verdict import Outcome, Refusal
from shoal_model.messages import BootEvent, IdentityAlarm, IdentityChanged, Message, Party, Status
from shoal_model.subjects import Stage, boot_event, event

_REASON = 1000
_AGAIN = 60.0
"""Seconds between two alarms about the same attempt."""
_NODES_OF_A_CLUSTER = 20_000
_AT_ONCE, _STEADY = 10_000, 0.1
"""Alarms: a whole cluster at once that nobody expected to boot, and one more every tenth of a second."""
_FORGED_AT_ONCE, _FORGED_STEADY = 1000, 1.0
"""Those that anybody can cause who reaches the bus, for any node: they are not to use up the others."""
_NO_BOOT = frozenset({Outcome.FORGED, Outcome.WRONG_ADDRESS})
"""Attempts that are no boot of the node: they name a boot that somebody chose, or saw."""


@dataclass(frozen=True)
class Notice:
    """An event for the stream; the same id within two minutes counts once, whichever replica sent it."""

    subject: str
    message: Message
    id: str | None = None


class Alarms:
    """How often there is an alarm: about the same key of a node once a minute, about a node four times a minute for
    each kind, and about all nodes no more than the stream of events should hold; forged ones are counted apart.
    """

    def __init__(self) -> None:
        self._attempts = Buckets(1, _AGAIN, 4 * _NODES_OF_A_CLUSTER)
        self._nodes = Buckets(4, _AGAIN / 4, 2 * _NODES_OF_A_CLUSTER)
        self._all = Bucket(_AT_ONCE, _STEADY)
        self._forged = Bucket(_FORGED_AT_ONCE, _FORGED_STEADY)

    def due(self, refusal: Refusal, now: float) -> bool:
        """Whether to tell of a refusal, which names a node of ours; `now` in seconds that never go back."""
        of_node = (refusal.node, refusal.outcome)
        attempt = (*of_node, refusal.party.key if refusal.party is not None else None)
        total = self._forged if refusal.outcome is Outcome.FORGED else self._all
        if not self._nodes.ready(of_node, now) or not total.ready(now):
            return False
        return self._attempts.take(attempt, now) and self._nodes.take(of_node, now) and total.take(now)


def refused(refusal: Refusal, bound: Party | None, at: datetime) -> list[Notice]:
    """What is told of an attempt to be a node that was refused, while `bound` speaks for it."""
    node, party = refusal.node, refusal.party
    assert node is not None
    notices: list[Notice] = []
    if refusal.outcome not in _NO_BOOT:
        failed = BootEvent(
            node=node,
            stage=Stage.STAGE1_BUS,
            at=at,
            boot=party.boot if party is not None else None,
            status=Status.FAILED,
            reason=refusal.reason,
            details={"address": party.address, "key": party.key} if party is not None else {},
        )
        notices.append(Notice(boot_event(node, Stage.STAGE1_BUS), failed))
    if refusal.alarm is not None:
        alarm = IdentityAlarm(
            node=node, kind=refusal.alarm, reason=refusal.reason[:_REASON], at=at, attempt=party, bound=bound
        )
        notices.append(Notice(event("identity", node, "alarm"), alarm))
    who = party.key if party is not None else ""
    minute = int(at.timestamp() // _AGAIN)
    return [Notice(one.subject, one.message, f"{one.subject}/{refusal.outcome}/{who}/{minute}") for one in notices]


def changed(node: str, what: str, author: str, at: datetime, party: Party | None = None) -> Notice:
    """What is told of a change."""
    message = IdentityChanged(node=node, what=what, author=author, at=at, party=party)
    return Notice(event("identity", node, "changed"), message)
