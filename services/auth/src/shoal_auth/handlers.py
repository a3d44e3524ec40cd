"""auth's verbs: message in, change, message out."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shoal_auth import identity as identities
from shoal_auth import notices
from shoal_auth.choice import chosen
from shoal_auth.identity import Identity
from shoal_auth.ledger import Ledger
from shoal_auth.outbox import Outbox
from shoal_auth.recorded import Recorded
from shoal_auth.sweeper import Sweeper
from shoal_bus.api import Endpoint
from shoal_bus.errors import BusError, Conflict, Denied, Unavailable
from shoal_identity.statements import says_reboot
from shoal_model.messages import (
    AnnounceRebootReply,
    AnnounceRebootRequest,
    Armed,
    ArmedReply,
    ArmRequest,
    Binding,
    BindingsReply,
    BindingsRequest,
    DecideRequest,
    Empty,
    Party,
    Quarantined,
    QuarantineReply,
    RevokeReply,
    RevokeRequest,
)
from shoal_model.subjects import Service, node_in, rpc, rpc_of_every_node

_REBOOT = timedelta(minutes=30)
_REBOOT_AGAIN = timedelta(minutes=25)
"""A node that announces its reboot again while so much is left of the first time changes nothing."""
_AT_ONCE = 500


@dataclass(frozen=True)
class Handlers:
    """What an operator or a node asks for."""

    ledger: Ledger
    sweeper: Sweeper
    outbox: Outbox
    recorded: Recorded
    now: Callable[[], datetime]

    def endpoints(self) -> list[Endpoint[Any]]:
        """Every verb with its message and handler."""

        def verb(name: str) -> str:
            return rpc(Service.AUTH, name)

        return [
            Endpoint(verb("arm"), ArmRequest, self.arm),
            Endpoint(verb("armed"), Empty, self.armed),
            Endpoint(verb("bindings"), BindingsRequest, self.bindings),
            Endpoint(verb("revoke"), RevokeRequest, self.revoke),
            Endpoint(verb("quarantine"), Empty, self.quarantine),
            Endpoint(verb("decide"), DecideRequest, self.decide),
            Endpoint(rpc_of_every_node(Service.AUTH, "announce-reboot"), AnnounceRebootRequest, self.announce_reboot),
        ]

    async def arm(self, _: str, request: ArmRequest) -> ArmedReply:
        """See `ArmRequest`. NotFound names nodes that are not there; then none is armed."""
        await self.recorded.check(request.nodes)
        until = self.now() + timedelta(seconds=request.seconds)

        def step(identity: Identity) -> Identity:
            return (
                identities.expect(identity, until, request.author) if request.seconds else identities.disarm(identity)
            )

        changes = await self._change(request.nodes, step)
        what = "armed" if request.seconds else "disarmed"
        self._tell((after for before, after in changes if before.arm != after.arm), what, request.author)
        return ArmedReply(nodes=self._armed(after for _, after in changes))

    async def armed(self, _: str, __: Empty) -> ArmedReply:
        """Every node that is armed now."""
        return ArmedReply(nodes=self._armed(self.ledger.book))

    async def bindings(self, _: str, request: BindingsRequest) -> BindingsReply:
        """See `BindingsRequest`."""
        wanted = map(self.ledger.book.of, dict.fromkeys(request.nodes)) if request.nodes else self.ledger.book
        found = ((one.node, one.binding) for one in wanted)
        return BindingsReply(
            bindings=[
                Binding(node=node, party=bound.party, revoked=bound.revoked)
                for node, bound in found
                if bound is not None
            ]
        )

    async def revoke(self, _: str, request: RevokeRequest) -> RevokeReply:
        """See `RevokeRequest`. A node that nobody speaks for is as good as revoked."""
        already = self.sweeper.cuts(set(request.nodes))
        changes = await self._change(request.nodes, identities.revoke)
        revoked = [after for before, after in changes if before.speaker is not None]
        self._tell((after for before, after in changes if before.arm is not None), "disarmed", request.author)
        self._tell(revoked, "revoked", request.author)
        if revoked:
            await self._cut()
        cut = self.sweeper.cuts(set(request.nodes)) - already
        return RevokeReply(nodes=[one.node for one in revoked], connections=cut)

    async def quarantine(self, _: str, __: Empty) -> QuarantineReply:
        """See `QuarantineReply`, the latest last."""
        entries = [entry for identity in self.ledger.book for entry in identity.told]
        return QuarantineReply(entries=sorted(entries, key=lambda entry: entry.last))

    async def decide(self, _: str, request: DecideRequest) -> Quarantined:
        """See `DecideRequest`. NotFound if there is no such attempt; Conflict if it is not clear which one is meant."""
        await self.recorded.check([request.node])
        at = self.now()

        def step(identity: Identity) -> Identity:
            key = chosen(identity, request.key).attempt.key
            if request.admit:
                return identities.admit(identity, key, at)
            if identity.speaker is not None and identity.speaker.key == key:
                raise Conflict(
                    f"this key speaks for {request.node} by now: `shoal node revoke {request.node}` has it out"
                )
            return identities.reject(identity, key, at)

        before, after = await self.ledger.change(request.node, step)
        decided = after.attempt_of(chosen(before, request.key).attempt.key)
        assert decided is not None
        self._tell([after], "admitted" if request.admit else "rejected", request.author, decided.attempt)
        if before.speaker not in (None, after.speaker):
            await self._cut()
        return decided

    async def announce_reboot(self, subject: str, request: AnnounceRebootRequest) -> AnnounceRebootReply:
        """See `AnnounceRebootRequest`. Denied unless the key that is bound says it, of the boot that is bound."""
        node, at = node_in(subject), self.now()
        if not says_reboot(node, request.boot, request.key, request.signature):
            raise Denied(f"this is not signed with the key that is to speak for {node}")

        def step(identity: Identity) -> Identity:
            speaker = identity.speaker
            if speaker is None or (speaker.boot, speaker.key) != (request.boot, request.key):
                raise Denied(f"boot {request.boot} does not speak for {node} with this key")
            if identity.armed(at + _REBOOT_AGAIN):
                return identity
            return identities.expect(identity, at + _REBOOT, f"node {node}", speaker.key)

        before, after = await self.ledger.change(node, step)
        if before.arm != after.arm:
            self._tell([after], "armed", f"node {node}")
        assert after.arm is not None
        return AnnounceRebootReply(until=after.arm.until)

    async def _change(
        self, nodes: Sequence[str], step: Callable[[Identity], Identity]
    ) -> list[tuple[Identity, Identity]]:
        names = list(dict.fromkeys(nodes))
        changes: list[tuple[Identity, Identity]] = []
        for first in range(0, len(names), _AT_ONCE):
            some = names[first : first + _AT_ONCE]
            changes += await asyncio.gather(*(self.ledger.change(name, step) for name in some))
        return changes

    async def _cut(self) -> None:
        """Cut the connections of those who speak for a node no more. Raises Unavailable."""
        try:
            await self.sweeper.sweep()
        except BusError as error:
            raise Unavailable(f"it is done, and connections are cut as soon as the servers answer: {error}") from error

    def _armed(self, found: Iterable[Identity]) -> list[Armed]:
        at = self.now()
        return [
            Armed(node=one.node, until=one.arm.until, author=one.arm.author)
            for one in found
            if one.arm is not None and one.armed(at)
        ]

    def _tell(self, changed: Iterable[Identity], what: str, author: str, party: Party | None = None) -> None:
        at = self.now()
        self.outbox.put(notices.changed(one.node, what, author, at, party or one.speaker) for one in changed)
