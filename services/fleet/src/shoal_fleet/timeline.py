"""Boot events to boots. Pure.

The rules: events with a boot id belong to that boot. Events without one are dhcp's, which knows no boot ids: they
belong to the boot that follows within ten minutes. Offers that no boot follows are a boot that got no further. Which
boot is the latest is a matter of what arrived last, for a node's clock may be years away; inside one boot, events are
in order of their own times.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shoal_model.messages import Boot, BootEvent
from shoal_model.subjects import Stage

BOOTS = 5
"""Boots kept of each node."""
WINDOW = timedelta(minutes=10)
"""From an address to the loader's first request, at most."""

_ORDER = {stage: index for index, stage in enumerate(Stage)}
_SAME_STAGE = 8
_LOOSE = 16
_DETAILS, _KEY, _DETAIL = 32, 64, 500


@dataclass
class _Boots:
    """What is known of one node: boots by id, the oldest first, and events that belong to none yet."""

    by_id: dict[str, list[BootEvent]] = field(default_factory=dict)
    began: dict[str, datetime] = field(default_factory=dict)
    loose: list[BootEvent] = field(default_factory=list)


class Timeline:
    """The latest boots of every node."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Boots] = {}

    def add(self, event: BootEvent) -> None:
        """Take an event, as it arrives."""
        boots = self._nodes.setdefault(event.node, _Boots())
        event = _trimmed(event)
        if event.boot is None:
            _add_loose(boots, event)
        else:
            _add(boots, event, event.boot)

    def latest(self, node: str) -> Boot | None:
        """The latest boot; None if the node never booted."""
        return next(iter(self.boots(node)), None)

    def boots(self, node: str) -> list[Boot]:
        """The boots that are kept, latest first."""
        boots = self._nodes.get(node, _Boots())
        found = [Boot(node=node, boot=boot, events=list(events)) for boot, events in reversed(boots.by_id.items())]
        if any(event.stage is Stage.DHCP_OFFER for event in boots.loose):
            found.insert(0, Boot(node=node, boot=None, events=list(boots.loose)))
        return found

    def latest_id(self, node: str) -> str | None:
        """The id of the latest boot that has one."""
        return next(reversed(self._nodes.get(node, _Boots()).by_id), None)

    def alive(self, node: str, boot: str) -> None:
        """The node was heard from in this boot: an address it asked for before was not for another one."""
        boots = self._nodes.get(node)
        if boots is not None and boots.loose and next(reversed(boots.by_id), None) == boot:
            boots.loose.clear()

    def forget(self, node: str) -> None:
        """Drop all boots of a node that is no more."""
        self._nodes.pop(node, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)


def _add_loose(boots: _Boots, event: BootEvent) -> None:
    following = [boot for boot, began in boots.began.items() if _leads_to(event, began)]
    if following:
        boot = min(following, key=lambda boot: boots.began[boot])
        _insert(boots.by_id[boot], event)
        return
    boots.loose = [other for other in boots.loose if abs(other.at - event.at) <= WINDOW][-_LOOSE + 1 :]
    _insert(boots.loose, event)


def _add(boots: _Boots, event: BootEvent, boot: str) -> None:
    if boot not in boots.by_id:
        boots.by_id[boot], boots.began[boot] = [], event.at
        for loose in boots.loose:
            if _leads_to(loose, event.at):
                _insert(boots.by_id[boot], loose)
        boots.loose = [loose for loose in boots.loose if loose.at > event.at]
        while len(boots.by_id) > BOOTS:
            oldest = next(iter(boots.by_id))
            del boots.by_id[oldest], boots.began[oldest]
    _insert(boots.by_id[boot], event)


def _leads_to(address: BootEvent, began: datetime) -> bool:
    """Whether a boot that began then may be the one of this address. Times are a node's own, and any at all: a
    difference of two always exists, a sum need not.
    """
    return timedelta(0) <= began - address.at <= WINDOW


def _insert(events: list[BootEvent], event: BootEvent) -> None:
    """Put an event in its place. A stage that repeats itself keeps its first and its latest; progress the latest."""
    same = [other for other in events if other.stage is event.stage]
    if event in same:
        return  # sent again
    if event.stage is Stage.IMAGE_PROGRESS and same:
        events.remove(same[0])
    elif len(same) >= _SAME_STAGE:
        events.remove(same[1])
    insort(events, event, key=lambda one: (one.at, _ORDER[one.stage]))


def _trimmed(event: BootEvent) -> BootEvent:
    """An event whose details are no larger than any stage needs: a node may write what it likes."""
    kept = list(event.details.items())[:_DETAILS]
    details = {key[:_KEY]: value[:_DETAIL] if isinstance(value, str) else value for key, value in kept}
    return event if details == event.details else event.model_copy(update={"details": details})
