"""Every node as it is: the timeline, the heartbeats, and the standing that follows from both. No I/O."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from shoal_fleet.presence import Limits, Sign, Standing, judge, next_standing, same
from shoal_fleet.timeline import Timeline
from shoal_model.messages import BootEvent, Heartbeat, NodeState, NodeStatus

_INSTANT = timedelta(microseconds=1)


class Census:
    """Takes what is heard; tells, at every tick, whose standing has changed."""

    def __init__(self, limits: Limits) -> None:
        self.timeline = Timeline()
        self._limits = limits
        self._signs: dict[str, Sign] = {}
        self._standings: dict[str, Standing] = {}
        self._touched: set[str] = set()

    def restore(self, node: str, standing: Standing, now: datetime) -> None:
        """Begin with what was stored. A node that was up counts as heard from now: it has its time to beat again."""
        self._standings[node] = standing
        verdict = standing.verdict
        if verdict.state in (NodeState.UP, NodeState.LOST) and verdict.boot is not None:
            heard = now if verdict.state is NodeState.UP else standing.since - self._limits.lost - _INSTANT
            self._signs[node] = Sign(verdict.boot, heard)

    def event(self, event: BootEvent) -> None:
        """A boot event."""
        self.timeline.add(event)
        self._touched.add(event.node)

    def heartbeat(self, heartbeat: Heartbeat, now: datetime) -> None:
        """A heartbeat, heard now."""
        node = heartbeat.node
        self.timeline.alive(node, heartbeat.boot)
        self._signs[node] = Sign(heartbeat.boot, now, heartbeat)
        known = self._standings.get(node)
        if known is None or (known.verdict.state, known.verdict.boot) != (NodeState.UP, heartbeat.boot):
            self._touched.add(node)

    def clock_stepped(self, by: timedelta) -> None:
        """The head's clock was set by so much: nobody was silent for longer or shorter because of that."""
        for node, sign in self._signs.items():
            self._signs[node] = replace(sign, at=sign.at + by)

    def forget(self, node: str) -> None:
        """Drop a node that is no more."""
        self.timeline.forget(node)
        for known in (self._signs, self._standings):
            known.pop(node, None)
        self._touched.discard(node)

    def tick(self, now: datetime) -> dict[str, Standing]:
        """The standings that changed, by node. Call it every second or so."""
        touched, self._touched = self._touched, set()
        waiting = {node for node, known in self._standings.items() if self._may_turn(node, known, now)}
        changed: dict[str, Standing] = {}
        for node in touched | waiting:
            known = self._standings.get(node)
            standing = self._standings[node] = self._judge(node, now)
            if known is None or not same(known.verdict, standing.verdict):
                changed[node] = standing
        return changed

    def status(self, nodes: Iterable[str], now: datetime) -> Iterator[NodeStatus]:
        """The nodes as they are; one of which nothing was heard is unknown."""
        for node in nodes:
            sign = self._signs.get(node)
            if node not in self._standings and node not in self._touched:
                yield NodeStatus(node=node, state=NodeState.UNKNOWN)
                continue
            standing = self._judge(node, now)
            yield NodeStatus(
                node=node,
                state=standing.verdict.state,
                since=standing.since,
                stage=standing.verdict.stage,
                heartbeat=sign.heartbeat if sign is not None else None,
            )

    def counts(self) -> dict[NodeState, int]:
        """How many nodes stand in each state; those of which nothing was ever heard are in none."""
        counts = dict.fromkeys(NodeState, 0)
        for standing in self._standings.values():
            counts[standing.verdict.state] += 1
        return counts

    def _may_turn(self, node: str, known: Standing, now: datetime) -> bool:
        """Whether time alone may change what is known: cheap, for it is asked of every node at every tick."""
        if known.verdict.state is NodeState.BOOTING:
            return True
        sign = self._signs.get(node)
        return known.verdict.state is NodeState.UP and (sign is None or now - sign.at > self._limits.lost)

    def _judge(self, node: str, now: datetime) -> Standing:
        verdict = judge(self.timeline.latest(node), self._signs.get(node), now, self._limits)
        return next_standing(self._standings.get(node), verdict, now)
