"""Where answers go: to the server that asked, over the link that the question came by, and nowhere else."""

import base64
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from shoal_auth import jwt, question
from shoal_auth.answer import Seal
from shoal_auth.book import Book
from shoal_auth.callout import Callout, Parts
from shoal_auth.ledger import Ledger
from shoal_auth.outbox import Outbox
from shoal_auth.proofs import BoundKey
from shoal_auth.quarantine import Quarantine
from shoal_bus.client import Message, Receiver
from shoal_bus.connection import Connection
from shoal_bus.errors import Unavailable
from shoal_bus.fakes import MemoryBus, MemoryStore
from shoal_identity.keys import Key, Role
from shoal_model.records import Cluster

AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
SERVER, NODE, ISSUER = Key.new(Role.SERVER), Key.new(), Key.new(Role.ACCOUNT)
INBOX = "$SYS._INBOX.server.1"
NONCE = "abcdefghijklmnop"
ASKED = jwt.encode(
    {
        "aud": "nats-authorization-request",
        "nats": {
            "server_id": {"id": SERVER.public},
            "user_nkey": Key.new().public,
            "client_info": {"host": "10.77.0.11", "nonce": NONCE},
            "connect_opts": {"nkey": NODE.public, "sig": base64.b64encode(NODE.sign(NONCE.encode())).decode()},
        },
    },
    SERVER,
    0,
).encode()


class Wire:
    """A connection in account AUTH: gives questions, keeps what is published in answer."""

    def __init__(self) -> None:
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.broken = False
        self._take: Receiver | None = None

    async def listen(self, subject: str, take: Receiver, *, queue: str) -> "Wire":
        assert (subject, queue) == (question.SUBJECT, "auth")
        self._take = take
        return self

    async def stop(self) -> None:
        self._take = None

    async def publish(self, subject: str, body: bytes) -> None:
        if self.broken:
            raise Unavailable("lost")
        self.published.append((subject, jwt.decode(body, "A")))

    async def ask(self, reply: str, body: bytes = ASKED) -> None:
        assert self._take is not None
        await self._take(cast("Message", SimpleNamespace(data=body, reply=reply, arrived=0.0, link=self)))


@pytest.fixture
async def wire() -> Wire:
    """Asks an auth that knows nobody: every answer is a refusal."""
    wire = Wire()
    ledger = Ledger(MemoryStore(), Book())
    parts = Parts(
        cluster=Cluster,
        proofs=(BoundKey(),),
        ledger=ledger,
        quarantine=Quarantine(ledger, lambda: 0.0),
        outbox=Outbox(MemoryBus()),
        now=lambda: AT,
        clock=lambda: 0.0,
    )
    await Callout(cast("Connection", wire), Seal(ISSUER, 600), parts).open()
    return wire


async def test_the_server_is_answered_where_it_waits(wire: Wire) -> None:
    await wire.ask(INBOX)
    ((subject, claims),) = wire.published
    assert (subject, claims["aud"]) == (INBOX, SERVER.public)
    assert claims["nats"].keys() == {"type", "version", "error"}


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "$KV.identity.binding.n001",
        "$JS.API.STREAM.DELETE.KV_identity",
        "_INBOX.auth.1",
        "$SYS",
        "$SYSTEM.x",
        "x.$SYS.1",
    ],
)
async def test_nobody_else_is_answered(wire: Wire, reply: str) -> None:
    with structlog.testing.capture_logs() as said:
        await wire.ask(reply)
    assert wire.published == []
    (told,) = [entry for entry in said if entry["event"] == "auth.unanswered"]
    assert told["reason"] == f"{reply} is no inbox of a server"
    await wire.ask(INBOX)
    assert [subject for subject, _ in wire.published] == [INBOX]


async def test_what_no_server_asks_is_not_answered(wire: Wire) -> None:
    await wire.ask(INBOX, b"rubbish")
    assert wire.published == []


async def test_an_answer_that_cannot_be_sent_is_told_of_and_the_next_one_is_sent(wire: Wire) -> None:
    wire.broken = True
    with structlog.testing.capture_logs() as said:
        await wire.ask(INBOX)
    assert [entry["reason"] for entry in said if entry["event"] == "auth.unanswered"] == ["lost"]
    wire.broken = False
    await wire.ask(INBOX)
    assert len(wire.published) == 1
