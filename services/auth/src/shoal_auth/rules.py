"""The decision: is this attempt let in, and as which node? Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from shoal_auth import words
from shoal_auth.identity import Identity, bind
from shoal_auth.proofs import Claim, Known, Proof
from shoal_auth.question import Attempt
from shoal_auth.verdict import Outcome, Refusal
from shoal_model.messages import AlarmKind, Party
from shoal_model.records import Admission
from shoal_model.resolve import Unresolvable, effective


@dataclass(frozen=True)
class LetIn:
    """The party speaks for the node already."""

    node: str
    party: Party


@dataclass(frozen=True)
class Bind:
    """The party is let in once `after` is stored in the place of `before`."""

    party: Party
    before: Identity
    after: Identity


Verdict = LetIn | Bind | Refusal


def decide(attempt: Attempt, known: Known, proofs: Sequence[Proof]) -> Verdict:
    """Ask the proofs, then whether the boot is expected."""
    for proof in proofs:
        found = proof.examine(attempt, known)
        if isinstance(found, Refusal):
            return _quiet_if_rejected(found, known)
        if found is not None:
            return _admission(found, attempt, known)
    return Refusal(Outcome.UNKNOWN, "its key speaks for no node, and it shows nothing else")


def _admission(claim: Claim, attempt: Attempt, known: Known) -> Verdict:
    node, party, identity = claim.node, claim.party, known.identities.of(claim.node)
    if not claim.fresh:
        return LetIn(node, party)
    if identity.rejects(party.key):
        return Refusal(Outcome.REJECTED, words.rejected(node))
    try:
        always = effective(known.cluster, node).admission is Admission.ALWAYS
    except Unresolvable as error:
        return Refusal(Outcome.UNRECORDED, str(error), node, party)
    if always or identity.armed(attempt.at):
        return Bind(party, identity, bind(identity, party, claim.until))
    reason = words.not_armed(node, party, identity.speaker)
    return Refusal(Outcome.NOT_ARMED, reason, node, party, AlarmKind.NOT_ARMED, hold=True)


def _quiet_if_rejected(refusal: Refusal, known: Known) -> Refusal:
    """An operator knows already."""
    node, party = refusal.node, refusal.party
    if node is None or party is None or not known.identities.of(node).rejects(party.key):
        return refusal
    return Refusal(Outcome.REJECTED, words.rejected(node))
