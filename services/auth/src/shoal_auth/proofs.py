"""Proofs that a key is a node's, asked in order until one knows. Pure.

A further kind (TPM, asset tag) is one more class here, and its place in the list of `service`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from shoal_auth import words
from shoal_auth.identity import Identity
from shoal_auth.question import Attempt
from shoal_auth.verdict import Outcome, Refusal
from shoal_identity import tokens
from shoal_identity.tokens import BadToken, BootToken
from shoal_model.messages import AlarmKind, Party
from shoal_model.records import Cluster, Node


class Identities(Protocol):
    """What is stored of all nodes."""

    def of(self, node: str) -> Identity:
        """Of one; empty if nothing is."""

    def with_key(self, key: str) -> Identity | None:
        """Of the node that this key speaks for, or spoke for before its present one."""


@dataclass(frozen=True)
class Known:
    """What is known: the records of the cluster, and what is stored of who its nodes are."""

    cluster: Cluster
    identities: Identities


@dataclass(frozen=True)
class Claim:
    """The key is a node's, says a proof. `fresh`: it is bound to it not yet; its token is too old at `until`."""

    node: str
    party: Party
    fresh: bool = False
    until: datetime | None = None


def is_replaced(party: Party, record: Node | None) -> bool:
    """Whether a party that speaks for a node is another machine than its record says by now: one with another MAC. An
    address that changed in the record is another matter: the node has it from its next boot on.
    """
    return record is not None and party.mac not in (None, record.mac)


class Proof(Protocol):
    """One way to know a node."""

    def examine(self, attempt: Attempt, known: Known) -> Claim | Refusal | None:
        """Whose attempt it is, or why it is refused; None: this proof knows nothing of it."""


class BoundKey:
    """The key speaks for a node already: it renews its permissions, or connects again."""

    def examine(self, attempt: Attempt, known: Known) -> Claim | Refusal | None:
        """See `Proof`."""
        identity = known.identities.with_key(attempt.key)
        binding = identity.binding if identity is not None else None
        if identity is None or binding is None or binding.party.key != attempt.key:
            return None
        node = identity.node
        if node not in known.cluster.nodes:
            return Refusal(Outcome.UNRECORDED, words.removed(node))
        if binding.revoked:
            return Refusal(Outcome.REVOKED, words.revoked(node))
        if binding.party.address != attempt.address:
            party = binding.party.model_copy(update={"address": attempt.address, "at": attempt.at})
            reason = words.stolen(node, binding.party, attempt.address)
            return Refusal(Outcome.WRONG_ADDRESS, reason, node, party, AlarmKind.WRONG_ADDRESS)
        if is_replaced(binding.party, record := known.cluster.nodes[node]):
            return Refusal(Outcome.UNRECORDED, words.other_machine(node, record.mac), node, binding.party)
        return Claim(node, binding.party)


class BootTokens:
    """A boot file server's word for one boot: see `shoal_identity.tokens`."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys

    def examine(self, attempt: Attempt, known: Known) -> Claim | Refusal | None:
        """See `Proof`."""
        if not attempt.token:
            return None
        try:
            token = tokens.read(attempt.token, self._keys)
        except BadToken as error:
            return _forged(attempt, known, str(error))
        if token.node not in known.cluster.nodes:
            return Refusal(Outcome.UNRECORDED, words.removed(token.node))
        return _invalid(token, attempt, known) or _used(token, attempt, known) or _claim(token, attempt)


class FormerKey:
    """The key spoke for a node until another one took its place: one of the two is a thief's."""

    def examine(self, attempt: Attempt, known: Known) -> Claim | Refusal | None:
        """See `Proof`."""
        identity = known.identities.with_key(attempt.key)
        former = identity.binding.former if identity is not None and identity.binding is not None else None
        if identity is None or former is None or former.key != attempt.key or identity.node not in known.cluster.nodes:
            return None
        party = former.model_copy(update={"address": attempt.address, "at": attempt.at})
        reason = words.replaced(identity.node, identity.speaker)
        if attempt.address != former.address:
            return Refusal(Outcome.WRONG_ADDRESS, reason, identity.node, party, AlarmKind.WRONG_ADDRESS)
        return Refusal(Outcome.NOT_ARMED, reason, identity.node, party, AlarmKind.NOT_ARMED, hold=True)


def _forged(attempt: Attempt, known: Known, problem: str) -> Refusal:
    claimed = tokens.claimed(attempt.token)
    if claimed is None or claimed.node not in known.cluster.nodes:
        return Refusal(Outcome.FORGED, problem)
    party = Party(key=attempt.key, address=attempt.address, boot=claimed.boot, at=attempt.at)
    reason = words.forged(claimed.node, attempt.address, problem)
    return Refusal(Outcome.FORGED, reason, claimed.node, party, AlarmKind.FORGED)


def _invalid(token: BootToken, attempt: Attempt, known: Known) -> Refusal | None:
    """Why a genuine token does not count here and now."""
    node, record, party = token.node, known.cluster.nodes[token.node], _party(token, attempt)
    if token.address != attempt.address:
        reason = words.elsewhere(node, token.address, attempt.address)
        return Refusal(Outcome.WRONG_ADDRESS, reason, node, party, AlarmKind.WRONG_ADDRESS)
    if token.not_after < attempt.at.timestamp():
        waits = known.identities.of(node).waits(attempt.key)
        reason = words.expired(node, datetime.fromtimestamp(token.not_after, UTC), waits=waits)
        return Refusal(Outcome.EXPIRED, reason, node, party, AlarmKind.EXPIRED)
    if (token.mac, token.address) != (record.mac, record.address):
        return Refusal(Outcome.UNRECORDED, words.moved(node, token.mac, token.address), node, party)
    return None


def _used(token: BootToken, attempt: Attempt, known: Known) -> Refusal | None:
    """Whoever comes second with a token, and whoever was replaced since it came with it."""
    identity = known.identities.of(token.node)
    used = identity.binding.user(token.boot) if identity.binding is not None else None
    if used is None:
        return None
    party, node = _party(token, attempt), token.node
    if used.key == attempt.key:
        reason = words.replaced(node, identity.speaker)
        return Refusal(Outcome.NOT_ARMED, reason, node, party, AlarmKind.NOT_ARMED, hold=True)
    reason = words.replayed(node, token.boot, identity.speaker)
    return Refusal(Outcome.REPLAYED, reason, node, party, AlarmKind.REPLAYED, hold=True)


def _claim(token: BootToken, attempt: Attempt) -> Claim:
    until = datetime.fromtimestamp(token.not_after, UTC)
    return Claim(token.node, _party(token, attempt), fresh=True, until=until)


def _party(token: BootToken, attempt: Attempt) -> Party:
    return Party(key=attempt.key, address=attempt.address, boot=token.boot, mac=token.mac, at=attempt.at)
