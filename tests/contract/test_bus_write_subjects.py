"""Buckets with one writer: nobody else has anything stored there, whatever subject the server's answers go to."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel

from lab.auth_lab import DOCUMENT, AuthLab, auth_lab
from lab.nats_peer import Heard, NatsPeer
from lab.nats_server import NatsServer
from shoal_bus import codec, secrecy
from shoal_bus.api import Entry, Store, Write
from shoal_bus.connection import Credentials, connect
from shoal_bus.errors import Conflict, Unavailable
from shoal_bus.nats import NatsBus
from shoal_identity.keys import Key
from shoal_model import permissions
from shoal_model.permissions import OWNERS, PRINCIPALS
from shoal_model.subjects import Stage, boot_event, told

API = "$JS.API."
CONSUMER = f"{API}CONSUMER.CREATE."
NEXT = f"{API}CONSUMER.MSG.NEXT."


class Number(BaseModel):
    number: int = 0


class Buckets:
    """Those of a head with registry and auth, as their writers see them."""

    def __init__(self, lab: AuthLab, stores: Mapping[str, Store]) -> None:
        self.lab, self._stores = lab, stores
        self.secrets = lab.server.public.secrets

    @classmethod
    @asynccontextmanager
    async def of(cls, folder: Path) -> AsyncIterator["Buckets"]:
        async with AsyncExitStack() as stack:
            lab = await stack.enter_async_context(auth_lab(folder))
            await stack.enter_async_context(lab.replica())
            stores = {}
            for bucket, owner in OWNERS.items():
                bus = await lab.server.bus(owner)
                stack.push_async_callback(bus.close)
                stores[bucket] = await bus.store(bucket)
            await stores["secrets"].put("ssh.host", b"x")
            await lab.arm("n001")
            yield cls(lab, stores)

    async def content(self) -> Mapping[str, list[Entry]]:
        """What is there, with all revisions."""
        return {bucket: list(await store.load()) for bucket, store in self._stores.items()}

    def asked(self, who: str) -> list[tuple[str, bytes]]:
        """Whatever this principal may say to a stream or to JetStream, and is answered: subjects and bodies."""
        granted = permissions.of(who, self.secrets).publish
        return [_concrete(subject) for subject in granted if subject.startswith((API, "evt.", "job."))]


def _concrete(subject: str) -> tuple[str, bytes]:
    if subject.startswith(CONSUMER):
        return _consumer(subject)
    if subject.startswith(NEXT):
        return subject.replace("*", "mine"), b'{"batch": 1, "no_wait": true}'
    return subject.replace("*", "n001").replace(">", "n001.stage1.start"), b"\x80"


def _consumer(subject: str) -> tuple[str, bytes]:
    """A request for a consumer, as its permission has it: `$JS.API.CONSUMER.CREATE.<stream>.<name>.<filter>`."""
    stream, name, pattern = subject.removeprefix(CONSUMER).split(".", 2)
    name = name.replace("*", "mine")
    durable = {"durable_name": name, "ack_policy": "explicit"} if name != "mine" else {"ack_policy": "none"}
    body = {"stream_name": stream, "config": {"name": name, "filter_subject": pattern, **durable}}
    return f"{CONSUMER}{stream}.{name}.{pattern}", json.dumps(body).encode()


@asynccontextmanager
async def peer(lab: AuthLab, who: str) -> AsyncIterator[NatsPeer]:
    """This principal, with nothing between us and the server, and its inbox."""
    async with NatsPeer.open(lab.server.port, lab.server.keys[who]) as peer:
        peer.subscribe(f"_INBOX.{who}.0011.*")
        await peer.settle()
        yield peer


async def answers(peer: NatsPeer, who: str, requests: list[tuple[str, bytes]]) -> list[Heard]:
    """What the server says to these, one after the other; the headers stand before a body."""
    said = []
    for subject, body in requests:
        peer.publish(subject, body, reply=f"_INBOX.{who}.0011.1")
        said.append(await peer.next())
    return said


async def test_no_answer_of_the_server_is_stored_in_a_bucket(tmp_path: Path) -> None:
    async with Buckets.of(tmp_path) as buckets:
        before, lab = await buckets.content(), buckets.lab
        assert all(before.values())
        for who in PRINCIPALS:
            asked = buckets.asked(who)
            async with peer(lab, who) as one:
                await answers(one, who, asked)  # now its consumers are there
                for bucket in OWNERS:
                    for subject, body in asked:
                        one.publish(subject, body, reply=f"$KV.{bucket}.node.n001")
                assert await one.refused(publish=[f"$KV.{bucket}.node.n001" for bucket in OWNERS]) == (
                    {f"$KV.{bucket}.node.n001" for bucket in OWNERS},
                    set(),
                )
                await answers(one, who, asked)  # so those before were answered, too
        assert await buckets.content() == before
        await lab.apply({**DOCUMENT, "templates": {"compute": {}}})
        assert set(await lab.bindings()) == set()
        assert await buckets.content() != before
        await _control(buckets)


async def _control(buckets: Buckets) -> None:
    """An answer would be stored, if one knew where."""
    before, where = await buckets.content(), f"$W.{buckets.secrets['secrets']}.secrets.ssh.host"
    for subject, body in buckets.asked("dhcp"):
        async with peer(buckets.lab, "dhcp") as one:
            one.publish(subject, body, reply=where)
            await answers(one, "dhcp", buckets.asked("dhcp"))
    after = await buckets.content()
    assert after["secrets"][0].revision >= before["secrets"][0].revision + len(buckets.asked("dhcp")) - 2
    assert {bucket: after[bucket] == before[bucket] for bucket in OWNERS} == {
        "records": True,
        "secrets": False,
        "identity": True,
    }


async def test_nobody_learns_where_another_writes(tmp_path: Path) -> None:
    async with Buckets.of(tmp_path) as buckets:
        for who in PRINCIPALS:
            async with peer(buckets.lab, who) as one:
                asked = buckets.asked(who)
                said = [str(answer) for _ in range(2) for answer in await answers(one, who, asked)]
            assert len(said) == 2 * len(asked)
            known = {bucket for bucket, secret in buckets.secrets.items() if any(secret in one for one in said)}
            assert known == set(permissions.owned(who))
        log = (buckets.lab.server.directory / "nats.log").read_text()
        assert not any(secret in log for secret in buckets.secrets.values())


# --- stores ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def keeping(server: NatsServer, key: Key | None) -> AsyncIterator[Store]:
    """The bucket `records`, as its one writer has it."""
    credentials = Credentials(key=key, owns=["records"])
    bus = await NatsBus.connect([server.url], name="keeper", credentials=credentials, timeout=10)
    yield await bus.store("records")
    await bus.close()


async def test_a_store_that_is_written_elsewhere_is_one_as_any_other(nats_server: NatsServer) -> None:
    async with keeping(nats_server, Key.new()) as store, store.watch() as entries:
        assert await anext(entries) is None
        first = await store.put("node.n1", b"a", expected=0)
        with pytest.raises(Conflict):
            await store.put("node.n1", b"b", expected=0)
        last = await store.commit([Write("node.n1", b"b", first), Write("node.n2", b"c", 0), Write("head", b"1")])
        with pytest.raises(Conflict):
            await store.commit([Write("node.n1", b"d", first), Write("node.n3", b"e", 0)])
        await store.delete("node.n2")
        assert await store.get("node.n1") == Entry("node.n1", b"b", first + 1)
        assert await store.get("node.n2") is None
        assert [entry.key for entry in await store.load()] == ["node.n1", "head", "node.n2"]
        seen = [await anext(entries) for _ in range(5)]
        assert [entry.key for entry in seen if entry] == ["node.n1", "node.n1", "node.n2", "head", "node.n2"]
        assert last == first + 3


async def test_a_bucket_keeps_what_it_holds_when_it_is_to_be_written_elsewhere(nats_server: NatsServer) -> None:
    """Heads that were made before, and keys that were made anew."""
    old, new = Key.new(), Key.new()
    async with keeping(nats_server, None) as plain:
        await plain.put("node.n1", b"1")
        async with keeping(nats_server, old) as one:
            await one.put("node.n1", b"2", expected=1)
            with pytest.raises(Unavailable):
                await plain.put("node.n1", b"x")
            async with keeping(nats_server, old) as replica:
                await replica.put("node.n1", b"3", expected=2)
                await one.put("node.n1", b"4", expected=3)
            async with keeping(nats_server, new) as other:
                await other.put("node.n1", b"5", expected=4)
                with pytest.raises(Unavailable):
                    await one.put("node.n1", b"x")
    async with keeping(nats_server, None) as again:
        assert await again.put("node.n2", b"6") == 6
        assert [(entry.key, entry.value) for entry in await again.load()] == [("node.n1", b"5"), ("node.n2", b"6")]


# --- events ----------------------------------------------------------------------------------------------------


async def test_a_node_cannot_say_first_what_a_service_will_say(nats_server: NatsServer) -> None:
    """An event is dropped if another one had its id, whatever its subject: a service's is known to nobody else."""
    key, alarm = Key.new(), "evt.identity.n001.alarm"
    services = [
        await NatsBus.connect([nats_server.url], name="auth", credentials=Credentials(key=key), timeout=10)
        for _ in range(2)
    ]
    await services[0].prepare()
    async with await connect([nats_server.url], name="node", timeout=10) as node:
        subject = told(boot_event("n002", Stage.STAGE1_START))
        await node.publish_raw(subject, codec.pack({"number": 1}), {"Nats-Msg-Id": f"{alarm}/1"})
        await node.flush()
    async with services[0].events("evt.>", Number, since=0) as events:
        assert (await anext(events))[2].number == 1
        for service in services:
            await service.emit(alarm, Number(number=2), id=f"{alarm}/1")
        await services[0].emit(alarm, Number(number=3), id=f"{alarm}/2")
        assert [(await anext(events))[2].number for _ in range(2)] == [2, 3]
    for service in services:
        await service.close()
    assert secrecy.event_id(key, "a") != secrecy.event_id(Key.new(), "a")
    assert secrecy.event_id(key, "records") != secrecy.write_secret(key, "records")
