"""What is stored of a node in bucket `identity`, and how it changes. Pure: every change gives a new `Identity`.

binding.<node>     Bound: the key that speaks for it, and the boots whose tokens are used up
arm.<node>         Arm: its next boot is expected
quarantine.<node>  Held: attempts that were not let in
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from shoal_auth import words
from shoal_identity.tokens import LIFETIME
from shoal_model.messages import Message, Party, Quarantined, QuarantineState
from shoal_model.messages.identity import BootId, NodeKey
from shoal_model.records import Line

HELD = 4
"""Attempts to be a node that wait, each with a key of its own: one more finds no room."""
_KEPT = {QuarantineState.ADMITTED: 4, QuarantineState.REJECTED: 64}
"""Attempts of a node that were decided: the oldest goes."""
REMEMBERED = timedelta(days=7)
"""For how long an attempt is kept of which nothing is heard."""
_REASON = 1000
_TOKEN = timedelta(seconds=LIFETIME)
_CLOCK = timedelta(hours=24)
"""By how much the clock of a head may go ahead and come back again, and no used token counts once more."""
_USED = 256
"""Boots of a node that are remembered at most: more than it can do within the life of a token."""


class UsedBoot(Message):
    """A token counts for the key that it was first used with, and for no other; from `until` on it is too old."""

    boot: BootId
    key: NodeKey
    until: AwareDatetime

    def over(self, at: datetime) -> bool:
        """Whether it may be forgotten: a day later, as `at` is what a clock says."""
        return self.until + _CLOCK <= at


class Bound(Message):
    """The one key that speaks for a node. `former` is the one before it."""

    party: Party
    revoked: bool = False
    used: tuple[UsedBoot, ...] = ()
    former: Party | None = None

    def user(self, boot: str) -> UsedBoot | None:
        """Who used the token of a boot."""
        return next((used for used in self.used if used.boot == boot), None)


class Arm(Message):
    """The next boot of a node is expected until then, by somebody's word: with a `key`, by the word of who speaks for
    the node with it, which counts for as long as it does.
    """

    until: AwareDatetime
    author: Line
    key: NodeKey | None = None


class Held(Message):
    """Attempts that were not let in, the latest last. `more` is how many found no room since there was none."""

    entries: tuple[Quarantined, ...]
    more: int = 0


@dataclass(frozen=True)
class Revisions:
    """Of the three keys of a node, tombstones included; 0: it never was."""

    binding: int = 0
    arm: int = 0
    quarantine: int = 0


@dataclass(frozen=True)
class Identity:
    """All that is stored of one node."""

    node: str
    binding: Bound | None = None
    arm: Arm | None = None
    quarantine: Held | None = None
    revisions: Revisions = Revisions()

    @property
    def speaker(self) -> Party | None:
        """Who speaks for the node now."""
        return self.binding.party if self.binding is not None and not self.binding.revoked else None

    @property
    def held(self) -> tuple[Quarantined, ...]:
        """The attempts in quarantine."""
        return self.quarantine.entries if self.quarantine is not None else ()

    def armed(self, at: datetime) -> bool:
        """Whether a boot is expected."""
        if self.arm is None or self.arm.until <= at:
            return False
        return self.arm.key is None or (self.speaker is not None and self.speaker.key == self.arm.key)

    def attempt_of(self, key: str) -> Quarantined | None:
        """What is in quarantine of this key."""
        return next((entry for entry in self.held if entry.attempt.key == key), None)

    @property
    def room(self) -> int:
        """How many more attempts may wait."""
        return HELD - sum(entry.state is QuarantineState.WAITING for entry in self.held)

    @property
    def told(self) -> tuple[Quarantined, ...]:
        """The attempts in quarantine as operators see them: the latest that waits tells of those without room."""
        if self.quarantine is None or not self.quarantine.more:
            return self.held
        latest = [entry for entry in self.held if entry.state is QuarantineState.WAITING][-1]
        reason = f"{words.without_room(self.quarantine.more)}. {latest.reason}"[:_REASON]
        return tuple(one.model_copy(update={"reason": reason}) if one is latest else one for one in self.held)

    def waits(self, key: str) -> bool:
        """Whether this key waits for an operator."""
        entry = self.attempt_of(key)
        return entry is not None and entry.state is QuarantineState.WAITING

    def rejects(self, key: str) -> bool:
        """Whether an operator has refused this key for good."""
        entry = self.attempt_of(key)
        return entry is not None and entry.state is QuarantineState.REJECTED


def bind(identity: Identity, party: Party, until: datetime | None = None) -> Identity:
    """Have this party speak for the node from `party.at` on: whoever did before does no more, the boot that was
    expected has come, and the token of `party.boot` is used up. `until`: when that token is too old; None if nobody
    knows.
    """
    before, at = identity.binding, party.at
    used = [one for one in before.used if not one.over(at) and one.boot != party.boot] if before is not None else []
    if party.boot is not None:
        used.append(UsedBoot(boot=party.boot, key=party.key, until=until or at + _TOKEN))
    former = identity.speaker
    if former is None or former.key == party.key:
        former = before.former if before is not None else None
    if former is not None and former.key == party.key:
        former = None
    bound = Bound(party=party, used=tuple(used[-_USED:]), former=former)
    return _marked(replace(identity, binding=bound, arm=None), party.key, QuarantineState.ADMITTED, at)


def expect(identity: Identity, until: datetime, author: str, key: str | None = None) -> Identity:
    """Expect a boot until then; `key`: see `Arm`."""
    return replace(identity, arm=Arm(until=until, author=author, key=key))


def disarm(identity: Identity) -> Identity:
    """Expect no boot."""
    return replace(identity, arm=None)


def revoke(identity: Identity) -> Identity:
    """Have nobody speak for the node, and expect no boot: whoever spoke for it may have announced one."""
    identity = disarm(identity)
    if identity.binding is None or identity.binding.revoked:
        return identity
    return replace(identity, binding=identity.binding.model_copy(update={"revoked": True}))


def hold(identity: Identity, attempt: Party, reason: str, count: int, last: datetime) -> Identity:
    """Have an attempt wait that was made `count` more times, unless it speaks for the node by now or was refused for
    good. Where there is no room it is counted: whoever waits already keeps its place.
    """
    if identity.rejects(attempt.key) or (identity.speaker is not None and identity.speaker.key == attempt.key):
        return identity
    if not identity.room and not identity.waits(attempt.key):
        return miss(identity, count)
    known = identity.attempt_of(attempt.key)
    entry = Quarantined(
        node=identity.node,
        attempt=attempt if known is None else attempt.model_copy(update={"at": known.attempt.at}),
        bound=identity.speaker,
        reason=reason,
        attempts=count if known is None else known.attempts + count,
        last=last,
    )
    kept = (other for other in identity.held if other.attempt.key != attempt.key)
    return _with_held(identity, (*kept, entry))


def miss(identity: Identity, count: int) -> Identity:
    """Count attempts that found no room, as long as there is none."""
    if identity.room or identity.quarantine is None:
        return identity
    more = identity.quarantine.more + count
    return replace(identity, quarantine=identity.quarantine.model_copy(update={"more": more}))


def admit(identity: Identity, key: str, at: datetime) -> Identity:
    """Bind an attempt in quarantine, by an operator's word."""
    entry = identity.attempt_of(key)
    assert entry is not None
    return bind(identity, entry.attempt.model_copy(update={"at": at}))


def reject(identity: Identity, key: str, at: datetime) -> Identity:
    """Refuse the key of an attempt in quarantine for good."""
    return _marked(identity, key, QuarantineState.REJECTED, at)


def tidy(identity: Identity, at: datetime, *, recorded: bool) -> Identity:
    """Without what is over. Of a node that is recorded no more nothing stays, once its used tokens are too old."""
    binding = identity.binding
    if not recorded:
        identity = replace(revoke(identity), quarantine=None)
        if binding is not None and all(used.over(at) for used in binding.used):
            return replace(identity, binding=None)
    if identity.arm is not None and not identity.armed(at):
        identity = disarm(identity)
    kept = tuple(entry for entry in identity.held if at - entry.last < REMEMBERED)
    return identity if kept == identity.held else _with_held(identity, kept)


def _marked(identity: Identity, key: str, state: QuarantineState, at: datetime) -> Identity:
    """With this decision about a key, where it is in quarantine."""
    if identity.attempt_of(key) is None:
        return identity
    decided = {"state": state, "last": at}
    entries = (one.model_copy(update=decided) if one.attempt.key == key else one for one in identity.held)
    return _with_held(identity, entries)


def _with_held(identity: Identity, entries: Iterable[Quarantined]) -> Identity:
    """With these attempts in quarantine, as far as they are kept."""
    kept = list(entries)
    for state, most in _KEPT.items():
        decided = sorted((one for one in kept if one.state is state), key=lambda one: one.last)
        gone = {one.attempt.key for one in decided[:-most]}
        kept = [one for one in kept if one.attempt.key not in gone]
    changed = replace(identity, quarantine=Held(entries=tuple(kept)) if kept else None)
    return (
        changed if changed.room else miss(changed, identity.quarantine.more if identity.quarantine is not None else 0)
    )
