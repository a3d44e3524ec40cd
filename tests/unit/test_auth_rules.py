"""The decision, and what is stored of it: tables, and a machine that tries everything in any order."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal_auth import identity as identities
from shoal_auth.choice import chosen
from shoal_auth.identity import HELD, Identity
from shoal_auth.proofs import BootTokens, BoundKey, FormerKey, Known
from shoal_auth.question import Attempt
from shoal_auth.rules import Bind, LetIn, Verdict, decide
from shoal_auth.verdict import Outcome, Refusal
from shoal_bus.errors import Conflict, NotFound
from shoal_identity import tokens
from shoal_identity.keys import Key
from shoal_identity.tokens import LIFETIME, BootToken
from shoal_model.messages import Party, QuarantineState
from shoal_model.records import Admission, Cluster

AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
BOOT_KEY = Key.new()
A, B, C, D, E = (Key.new().public for _ in range(5))
ADDRESS, MAC = "10.77.0.11", "52:54:00:77:00:11"
BOOTS = ["0" * 16, "1" * 16, "2" * 16]
PROOFS = (BoundKey(), BootTokens([BOOT_KEY.public]), FormerKey())


def cluster(admission: Admission | None = None, **node: object) -> Cluster:
    record = {"mac": MAC, "address": ADDRESS, "admission": admission, **node}
    networks = {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}}
    return Cluster.model_validate({"networks": networks, "nodes": {"n001": record}})


@dataclass
class Book:
    """The identities of a test."""

    one: Identity = field(default_factory=lambda: Identity("n001"))

    def of(self, node: str) -> Identity:
        return self.one if node == "n001" else Identity(node)

    def with_key(self, key: str) -> Identity | None:
        bound = self.one.binding
        parties = [] if bound is None else [bound.party, bound.former]
        return self.one if key in [party.key for party in parties if party is not None] else None


def party(key: str = A, boot: str = BOOTS[0], at: datetime = AT) -> Party:
    return Party(key=key, address=ADDRESS, boot=boot, mac=MAC, at=at)


def token(boot: str = BOOTS[0], *, end: datetime = AT + timedelta(seconds=LIFETIME), signer: Key = BOOT_KEY) -> str:
    return tokens.mint(BootToken("n001", MAC, ADDRESS, boot, int(end.timestamp())), signer)


def attempt(key: str = A, shown: str = "", *, address: str = ADDRESS, at: datetime = AT) -> Attempt:
    return Attempt(key, address, at, shown)


def decided(one: Attempt, book: Book, records: Cluster | None = None) -> Verdict:
    return decide(one, Known(records or cluster(), book), PROOFS)


def outcome(verdict: Verdict) -> str:
    return verdict.outcome if isinstance(verdict, Refusal) else type(verdict).__name__


ARMED = identities.expect(Identity("n001"), AT + timedelta(minutes=1), "ada")
STALE = identities.expect(Identity("n001"), AT, "ada")
BOUND = identities.bind(Identity("n001"), party(), AT + timedelta(seconds=LIFETIME))
BOUND_ARMED = identities.expect(BOUND, AT + timedelta(minutes=1), "ada")
REPLACED = identities.bind(BOUND, party(B, BOOTS[1]), AT + timedelta(seconds=LIFETIME))
REVOKED = identities.revoke(BOUND)
REJECTED = identities.reject(identities.hold(ARMED, party(), "because", 1, AT), A, AT)


@pytest.mark.parametrize(
    ("stored", "tried", "expected"),
    [
        (Identity("n001"), attempt(), Outcome.UNKNOWN),
        (Identity("n001"), attempt(A, token()), Outcome.NOT_ARMED),
        (STALE, attempt(A, token()), Outcome.NOT_ARMED),
        (ARMED, attempt(A, token()), "Bind"),
        (ARMED, attempt(A, "rubbish"), Outcome.FORGED),
        (ARMED, attempt(A, token(signer=Key.new())), Outcome.FORGED),
        (ARMED, attempt(A, token(), address="10.77.0.12"), Outcome.WRONG_ADDRESS),
        (ARMED, attempt(A, token(end=AT - timedelta(seconds=1))), Outcome.EXPIRED),
        (ARMED, attempt(A, token(end=AT), address="10.77.0.12", at=AT + timedelta(days=1)), Outcome.WRONG_ADDRESS),
        (REJECTED, attempt(A, token()), Outcome.REJECTED),
        (REJECTED, attempt(B, token()), "Bind"),
        (BOUND, attempt(), "LetIn"),
        (BOUND, attempt(A, token()), "LetIn"),
        (BOUND, attempt(A, "rubbish"), "LetIn"),
        (BOUND, attempt(address="10.77.0.12"), Outcome.WRONG_ADDRESS),
        (BOUND, attempt(B, token()), Outcome.REPLAYED),
        (BOUND, attempt(B, token(BOOTS[1])), Outcome.NOT_ARMED),
        (BOUND_ARMED, attempt(B, token()), Outcome.REPLAYED),
        (BOUND_ARMED, attempt(B, token(BOOTS[1])), "Bind"),
        (REPLACED, attempt(B), "LetIn"),
        (REPLACED, attempt(), Outcome.NOT_ARMED),
        (REPLACED, attempt(address="10.77.0.12"), Outcome.WRONG_ADDRESS),
        (REPLACED, attempt(A, token()), Outcome.NOT_ARMED),
        (REPLACED, attempt(C, token()), Outcome.REPLAYED),
        (REPLACED, attempt(C, token(), at=AT + timedelta(seconds=LIFETIME + 1)), Outcome.EXPIRED),
        (REVOKED, attempt(), Outcome.REVOKED),
        (REVOKED, attempt(A, token(BOOTS[1])), Outcome.REVOKED),
        (REVOKED, attempt(B, token()), Outcome.REPLAYED),
    ],
)
def test_who_is_let_in(stored: Identity, tried: Attempt, expected: str) -> None:
    assert outcome(decided(tried, Book(stored))) == expected


@pytest.mark.parametrize(
    ("records", "tried", "expected"),
    [
        (cluster(Admission.ALWAYS), attempt(A, token()), "Bind"),
        (cluster(mac="52:54:00:77:00:99"), attempt(A, token()), Outcome.UNRECORDED),
        (cluster(address="10.77.0.99"), attempt(A, token()), Outcome.UNRECORDED),
        (cluster(template="gone"), attempt(A, token()), Outcome.UNRECORDED),
        (Cluster(), attempt(A, token()), Outcome.UNRECORDED),
        (Cluster(), attempt(B), Outcome.UNRECORDED),
        (cluster(address="10.77.0.99"), attempt(B), "LetIn"),
        (cluster(mac="52:54:00:77:00:99"), attempt(B), Outcome.UNRECORDED),
        (cluster(mac="52:54:00:77:00:99"), attempt(B, address="10.77.0.12"), Outcome.WRONG_ADDRESS),
    ],
)
def test_what_the_records_say_of_it(records: Cluster, tried: Attempt, expected: str) -> None:
    assert outcome(decided(tried, Book(identities.bind(Identity("n001"), party(B, BOOTS[2]))), records)) == expected


def test_of_whom_we_have_no_node_nobody_is_told() -> None:
    for verdict in (
        decided(attempt(), Book()),
        decided(attempt(A, "rubbish"), Book()),
        decided(attempt(A, token()), Book(), Cluster()),
        decided(attempt(A, token(signer=Key.new())), Book(), Cluster()),
    ):
        assert isinstance(verdict, Refusal)
        assert verdict.node is None


@pytest.mark.parametrize("verdict", [attempt(A, token()), attempt(B, token(BOOTS[1]))])
def test_a_reason_says_what_to_type(verdict: Attempt) -> None:
    for stored in (Identity("n001"), BOUND, REPLACED):
        found = decided(verdict, Book(stored))
        if isinstance(found, Refusal):
            assert "`shoal quarantine admit n001`" in found.reason
            assert len(found.reason) <= 1000


def test_a_bound_boot_has_used_up_its_token_and_its_arm() -> None:
    verdict = decided(attempt(A, token()), Book(ARMED))
    assert isinstance(verdict, Bind)
    assert verdict.after.arm is None
    assert verdict.after.binding is not None
    assert [(used.boot, used.key) for used in verdict.after.binding.used] == [(BOOTS[0], A)]


def test_what_a_node_announces_is_expected_for_as_long_as_its_key_speaks() -> None:
    announced = identities.expect(BOUND, AT + timedelta(minutes=1), "node n001", A)
    assert announced.armed(AT)
    replaced = replace(identities.bind(BOUND, party(B, BOOTS[1])), arm=announced.arm)
    revoked = replace(REVOKED, arm=announced.arm)
    for one in (replaced, revoked):
        assert not one.armed(AT), "it was announced while the key was replaced or revoked"
        assert outcome(decided(attempt(C, token(BOOTS[2])), Book(one))) == Outcome.NOT_ARMED
        assert identities.tidy(one, AT, recorded=True).arm is None


def test_who_is_revoked_is_expected_no_more() -> None:
    for stored in (ARMED, BOUND_ARMED, replace(REVOKED, arm=ARMED.arm)):
        assert identities.revoke(stored).arm is None


def held(keys: Sequence[str], one: Identity = Identity("n001")) -> Identity:  # noqa: B008 - it is frozen
    for number, key in enumerate(keys):
        one = identities.hold(one, party(key), "because", 2, AT + timedelta(seconds=number))
    return one


def test_held_attempts_count_up() -> None:
    one = identities.hold(held([A, B]), party(A), "again", 3, AT + timedelta(seconds=10))
    found = one.attempt_of(A)
    assert found is not None
    assert (found.attempts, found.attempt.at, found.last, found.reason) == (5, AT, AT + timedelta(seconds=10), "again")
    assert [entry.attempt.key for entry in one.told] == [B, A]


def test_who_waits_keeps_its_place_and_the_others_are_counted() -> None:
    one = held([A, B, C, D, E, E, A])
    assert [entry.attempt.key for entry in one.held] == [B, C, D, A]
    assert [entry.reason for entry in one.held] == ["because"] * HELD
    assert [entry.reason for entry in one.told[:-1]] == ["because"] * (HELD - 1)
    assert one.told[-1].reason.startswith("4 attempts with further keys found no room")
    one = identities.reject(one, B, AT)
    assert [entry.reason for entry in one.told] == ["because"] * HELD
    assert held([E], one).waits(E)


def test_an_admitted_one_that_was_replaced_waits_only_where_there_is_room() -> None:
    one = identities.bind(identities.admit(held([A]), A, AT), party(B, BOOTS[1]))
    assert held([A], one).waits(A)
    assert not held([C, D, E, Key.new().public, A], one).waits(A)


def test_rejected_ones_take_no_room_and_stay_rejected() -> None:
    keys = [Key.new().public for _ in range(70)]
    one = held([A, B, C])
    for number, key in enumerate(keys):
        one = identities.reject(held([key], one), key, AT + timedelta(seconds=number))
    assert [key for key in (A, B, C) if one.waits(key)] == [A, B, C]
    assert [key for key in keys if one.rejects(key)] == keys[6:]
    assert held(keys[6:], one) == one, "it waits no more"
    later = AT + timedelta(days=7, seconds=6)
    assert identities.tidy(one, later, recorded=True).held == one.held[-63:]


def test_an_operator_means_the_attempt_that_waits_or_names_one() -> None:
    with pytest.raises(NotFound, match="no attempt to be n001 waits"):
        chosen(Identity("n001"), "")
    one = identities.hold(Identity("n001"), party(A), "because", 1, AT)
    assert chosen(one, "").attempt.key == A
    two = identities.hold(one, party(B), "because", 1, AT)
    with pytest.raises(Conflict, match=f"2 attempts.*{A[:12]}.*{B[:12]}"):
        chosen(two, "")
    assert chosen(two, B[:20]).attempt.key == B
    assert chosen(identities.reject(two, A, AT), "").attempt.key == B
    assert chosen(identities.reject(two, A, AT), A).attempt.key == A
    with pytest.raises(NotFound, match="begins with"):
        chosen(two, C)


def test_an_admitted_attempt_is_bound_and_the_one_before_is_remembered() -> None:
    one = identities.hold(BOUND, party(B), "because", 1, AT)
    one = identities.admit(one, B, AT + timedelta(seconds=5))
    assert one.speaker == party(B, at=AT + timedelta(seconds=5))
    entry = one.attempt_of(B)
    assert entry is not None
    assert entry.state is QuarantineState.ADMITTED
    assert outcome(decided(attempt(B), Book(one))) == "LetIn"
    assert outcome(decided(attempt(B, token()), Book(one))) == "LetIn"
    assert outcome(decided(attempt(A), Book(one))) == Outcome.NOT_ARMED
    assert outcome(decided(attempt(A, token()), Book(one))) == Outcome.REPLAYED
    assert outcome(decided(attempt(C, token()), Book(one))) == Outcome.REPLAYED
    assert identities.hold(one, party(B), "late", 1, AT) == one, "it waits for nothing any more"


def test_used_tokens_are_remembered_until_they_are_too_old() -> None:
    one = Identity("n001")
    for number in range(100):
        at = AT + timedelta(hours=number)
        one = identities.bind(one, party(boot=f"{number:016x}", at=at), at + timedelta(minutes=30))
    assert one.binding is not None
    assert [used.boot for used in one.binding.used] == [f"{number:016x}" for number in range(75, 100)]
    for number in range(300):
        one = identities.bind(one, party(boot=f"{number:016x}"), AT + timedelta(minutes=30))
    assert one.binding is not None
    assert len(one.binding.used) == 256


def test_a_used_token_counts_no_more_after_a_clock_went_ahead_and_back() -> None:
    ahead, back = AT + timedelta(hours=23), AT + timedelta(minutes=5)
    one = identities.bind(BOUND, party(B, BOOTS[1], ahead), ahead + timedelta(seconds=LIFETIME))
    armed = identities.expect(one, back + timedelta(minutes=1), "ada")
    assert outcome(decided(attempt(C, token(), at=back), Book(armed))) == Outcome.REPLAYED


def test_an_expired_token_is_expired_whoever_waited_with_it_and_an_operator_may_admit_it() -> None:
    later = AT + timedelta(hours=8)
    waiting = identities.hold(Identity("n001"), party(), "because", 1, AT)
    expected = identities.expect(waiting, later + timedelta(minutes=1), "ada")
    for stored in (waiting, expected):
        verdict = decided(attempt(shown=token(), at=later), Book(stored))
        assert isinstance(verdict, Refusal)
        assert verdict.outcome is Outcome.EXPIRED
        assert "`shoal quarantine admit n001`" in verdict.reason
        assert "`shoal quarantine reject n001`" in verdict.reason
        another = decided(attempt(B, token(), at=later), Book(stored))
        assert isinstance(another, Refusal)
        assert "quarantine" not in another.reason
    admitted = identities.admit(waiting, A, later)
    assert outcome(decided(attempt(shown=token(), at=later), Book(admitted))) == "LetIn"


def test_a_replayed_token_that_waited_is_not_let_in_when_the_node_is_expected() -> None:
    later = AT + timedelta(hours=8)
    held = identities.hold(BOUND, party(B, at=AT + timedelta(minutes=1)), "replayed", 1, AT + timedelta(minutes=1))
    expected = identities.expect(held, later + timedelta(minutes=1), "ada")
    assert outcome(decided(attempt(B, token(), at=later), Book(expected))) == Outcome.EXPIRED


def test_what_is_over_goes() -> None:
    later = AT + timedelta(days=8)
    one = identities.hold(BOUND_ARMED, party(B), "because", 1, AT)
    assert identities.tidy(one, AT, recorded=True) == one
    tidied = identities.tidy(one, later, recorded=True)
    assert (tidied.arm, tidied.held, tidied.binding) == (None, (), BOUND.binding)
    assert tidied.speaker == party()


def test_of_a_removed_node_stays_what_tokens_were_used_until_they_are_too_old() -> None:
    one = identities.hold(BOUND_ARMED, party(B), "because", 1, AT)
    removed = identities.tidy(one, AT, recorded=False)
    assert (removed.speaker, removed.arm, removed.held) == (None, None, ())
    assert outcome(decided(attempt(B, token()), Book(removed))) == Outcome.REPLAYED
    end = AT + timedelta(seconds=LIFETIME)
    assert identities.tidy(removed, end + timedelta(hours=23), recorded=False).binding == removed.binding
    assert identities.tidy(removed, end + timedelta(hours=24), recorded=False).binding is None


@dataclass
class Story:
    """What was let in by itself: keys by boot, and how many boots were expected."""

    keys: dict[str, set[str]] = field(default_factory=dict)
    arms: int = 0
    bound: int = 0


class Attempts(RuleBasedStateMachine):
    """Anybody with any key and any token, at any time, while operators do what they like but admit nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.book, self.at, self.story = Book(), AT, Story()
        self.revoked: set[str] = set()

    @rule(seconds=st.sampled_from([1, 60, 900, 2000]))
    def wait(self, seconds: int) -> None:
        self.at += timedelta(seconds=seconds)
        self.book.one = identities.tidy(self.book.one, self.at, recorded=True)

    @rule(seconds=st.sampled_from([30, 1000]))
    def arm(self, seconds: int) -> None:
        self.book.one = identities.expect(self.book.one, self.at + timedelta(seconds=seconds), "ada")
        self.story.arms += 1

    @rule()
    def revoke(self) -> None:
        if self.book.one.speaker is not None:
            self.revoked.add(self.book.one.speaker.key)
        self.book.one = identities.revoke(self.book.one)

    @rule(key=st.sampled_from([A, B, C]), boot=st.sampled_from([*BOOTS, ""]))
    def attempt(self, key: str, boot: str) -> None:
        shown = token(boot, end=AT + timedelta(seconds=LIFETIME)) if boot else ""
        verdict = decided(attempt(key, shown, at=self.at), self.book)
        if isinstance(verdict, Bind):
            assert self.book.one.armed(self.at)
            assert boot not in self.story.keys, "the token of a boot counts once"
            self.story.keys.setdefault(boot, set()).add(key)
            self.story.bound += 1
            self.revoked.discard(key)
            self.book.one = verdict.after
        elif isinstance(verdict, LetIn):
            assert self.book.one.speaker is not None
            assert self.book.one.speaker.key == key
            assert key not in self.revoked
        elif verdict.hold and verdict.party is not None:
            self.book.one = identities.hold(self.book.one, verdict.party, verdict.reason, 1, self.at)

    @invariant()
    def one_arm_lets_in_one_boot(self) -> None:
        assert self.story.bound <= self.story.arms

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        assert 0 <= self.book.one.room <= HELD
        assert len(self.book.one.held) <= 2 * HELD


TestAttempts = Attempts.TestCase
TestAttempts.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
