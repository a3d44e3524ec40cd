"""The callout: the server's question in, our answer out. Who is known already is answered from memory; who is new waits
until it is stored, and nobody waits behind them.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from shoal_auth import answer, metrics, notices, question
from shoal_auth.answer import Seal
from shoal_auth.connections import user_name
from shoal_auth.ledger import Ledger
from shoal_auth.limits import Bucket
from shoal_auth.notices import Alarms
from shoal_auth.outbox import Outbox
from shoal_auth.proofs import Known, Proof
from shoal_auth.quarantine import Quarantine
from shoal_auth.question import Attempt, BadQuestion, Question, Unproven
from shoal_auth.rules import Bind, LetIn, Verdict, decide
from shoal_auth.verdict import Outcome, Refusal
from shoal_bus.connection import Connection, Listening, Message
from shoal_bus.errors import BusError, Conflict
from shoal_model.messages import Party
from shoal_model.records import Cluster
from shoal_model.subjects import Service

log = structlog.stdlib.get_logger("shoal.auth")

_WAITING = 5000
"""Attempts that wait until they are stored, at most."""
_ANSWER_WITHIN = 6.0
"""Seconds: clients wait 15 s for the whole of connecting, and so does the server."""
_SERVERS = "$SYS."
_NOT_STORED = (
    "auth cannot note now who is let in (is JetStream there?): those it knows already come in, others may later"
)
_FAILED = "auth failed: its log says why"


@dataclass(frozen=True)
class Parts:
    """What decisions are made of, and where what comes of them goes. `clock` gives seconds that never go back."""

    cluster: Callable[[], Cluster]
    proofs: Sequence[Proof]
    ledger: Ledger
    quarantine: Quarantine
    outbox: Outbox
    now: Callable[[], datetime]
    clock: Callable[[], float]


@dataclass(frozen=True)
class _Asked:
    """A question, as it came."""

    question: Question
    message: Message
    at: datetime


class Callout:
    """Answers the questions that come over the connection in account AUTH."""

    def __init__(self, connection: Connection, seal: Seal, parts: Parts) -> None:
        self._connection = connection
        self._seal = seal
        self._parts = parts
        self._alarms = Alarms()
        self._lines = Bucket(20, 1.0)
        self._waiting: set[asyncio.Task[None]] = set()
        self._listening: Listening | None = None

    async def open(self) -> None:
        """Answer from now on, together with the other replicas."""
        self._listening = await self._connection.listen(question.SUBJECT, self._take, queue=Service.AUTH)

    async def close(self) -> None:
        """Take no more questions, answer those that were taken."""
        if self._listening is not None:
            await self._listening.stop()
        await asyncio.gather(*self._waiting)

    async def _take(self, message: Message) -> None:
        try:
            asked = _Asked(question.read(message.data), message, self._parts.now())
        except BadQuestion as error:
            metrics.UNREADABLE.inc()
            self._log("auth.unreadable", reason=str(error))
            return
        try:
            verdict = self._decide(attempt := question.proven(asked.question, asked.at))
        except Unproven as error:
            verdict = Refusal(Outcome.UNPROVEN, str(error))
        except Exception:
            log.exception("auth.failed")
            verdict = Refusal(Outcome.UNAVAILABLE, _FAILED)
        if not isinstance(verdict, Bind):
            await self._end(asked, verdict)
        elif len(self._waiting) < _WAITING:
            task = asyncio.create_task(self._store(asked, attempt, verdict))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        else:
            await self._end(asked, Refusal(Outcome.UNAVAILABLE, _NOT_STORED))

    async def _store(self, asked: _Asked, attempt: Attempt, bind: Bind) -> None:
        verdict: LetIn | Refusal = Refusal(Outcome.UNAVAILABLE, _NOT_STORED)
        try:
            async with asyncio.timeout(asked.message.arrived + _ANSWER_WITHIN - self._parts.clock()):
                verdict = await self._stored(attempt, bind)
        except (TimeoutError, BusError) as error:
            self._log("auth.unstored", reason=str(error) or "no answer in time")
        except Exception:
            log.exception("auth.failed")
            verdict = Refusal(Outcome.UNAVAILABLE, _FAILED)
        await self._end(asked, verdict)

    async def _stored(self, attempt: Attempt, verdict: Verdict) -> LetIn | Refusal:
        """Store what was decided; where another replica was faster, decide again."""
        while isinstance(verdict, Bind):
            node, party = verdict.after.node, verdict.party
            try:
                await self._parts.ledger.commit(verdict.before, verdict.after)
            except Conflict:
                verdict = self._decide(attempt)
            else:
                self._bound(node, party, attempt.at)
                return LetIn(node, party)
        return verdict

    def _decide(self, attempt: Attempt) -> Verdict:
        parts = self._parts
        return decide(attempt, Known(parts.cluster(), parts.ledger.book), parts.proofs)

    def _bound(self, node: str, party: Party, at: datetime) -> None:
        metrics.BOUND.inc()
        log.info("auth.bound", node=node, boot=party.boot, address=party.address, key=party.key)
        self._parts.outbox.put([notices.changed(node, "bound", f"node {node}", at, party)])

    async def _end(self, asked: _Asked, verdict: LetIn | Refusal) -> None:
        """Answer, and tell of a refusal."""
        seconds = int(asked.at.timestamp())
        if isinstance(verdict, LetIn):
            metrics.ATTEMPTS.labels(Outcome.LET_IN).inc()
            name = user_name(verdict.node, verdict.party)
            body = answer.let_in(asked.question, name, verdict.node, self._seal, seconds, random.random())
        else:
            metrics.ATTEMPTS.labels(verdict.outcome).inc()
            body = answer.refuse(asked.question, verdict.reason, self._seal, seconds)
        await self._send(asked.message, body)
        metrics.SECONDS.observe(max(self._parts.clock() - asked.message.arrived, 0.0))
        if isinstance(verdict, Refusal):
            self._tell(verdict, asked)

    async def _send(self, message: Message, body: bytes) -> None:
        """Over the link that the question came by: there alone we may answer, and to the server alone."""
        if not message.reply.startswith(_SERVERS):
            self._log("auth.unanswered", reason=f"{message.reply[:100]} is no inbox of a server")
            return
        try:
            await message.link.publish(message.reply, body)
        except BusError as error:
            self._log("auth.unanswered", reason=str(error))

    def _tell(self, refusal: Refusal, asked: _Asked) -> None:
        """Operators, if it wanted to be a node of ours; else the log alone."""
        parts, node, party = self._parts, refusal.node, refusal.party
        address = asked.question.client_info.host
        if node is None:
            self._log("auth.refused", outcome=refusal.outcome, address=address, reason=refusal.reason)
            return
        if refusal.hold and party is not None:
            parts.quarantine.note(node, party, refusal.reason, asked.at)
        due = self._alarms.due(refusal, parts.clock())
        metrics.ALARMS.labels(refusal.outcome, "told" if due else "not told").inc()
        if due:
            log.warning("auth.alarm", node=node, outcome=refusal.outcome, address=address, reason=refusal.reason)
            parts.outbox.put(notices.refused(refusal, parts.ledger.book.of(node).speaker, asked.at))

    def _log(self, event: str, **fields: str) -> None:
        if self._lines.take(self._parts.clock()):
            log.warning(event, **fields)
