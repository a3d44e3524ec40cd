"""The registry as others meet it, on the bus in memory and on a real nats-server: the same tests for both."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lab.registry import DOCUMENT, Clients, apply, ask, change, check_claims, delete, put, registry, until
from shoal_bus.api import Store
from shoal_bus.codec import pack, unpack
from shoal_bus.errors import Conflict, Invalid
from shoal_model import messages as m
from shoal_model.records import RECORD_TYPES, Kind
from shoal_model.subjects import RECORDS_BUCKET


async def test_a_document_goes_in_and_comes_out(clients: Clients) -> None:
    bus = await clients()
    async with registry(await clients()):
        reply = await apply(bus)
        assert {item.what for item in reply.changes} == {"added"}
        out = await ask(bus, "export", m.Empty(), m.ExportReply)
        assert (out.document, out.revision) == (DOCUMENT, reply.revision)
        again = await apply(bus, out.document)
        assert (again.changes, again.revision) == ([], reply.revision)
        await check_claims(await bus.store(RECORDS_BUCKET))


async def test_stored_records_are_what_others_read(clients: Clients) -> None:
    bus = await clients()
    async with registry(await clients()):
        reply = await apply(bus)
        store = await bus.store(RECORDS_BUCKET)
        entry = await store.get("node.n001")
        assert entry is not None
        assert unpack(entry.value or b"") == DOCUMENT["nodes"]["n001"]
        claim = await store.get("claim.ip.10-77-0-11")
        assert claim is not None
        assert unpack(claim.value or b"") == {"node": "n001"}
        head = await store.get("head")
        assert head is not None
        assert head.revision == reply.revision
        assert {"revision", "author", "at", "change"} <= unpack(head.value or b"").keys()


async def test_a_wrong_change_stores_nothing(clients: Clients) -> None:
    bus = await clients()
    async with registry(await clients()):
        first = await apply(bus)
        wrong = {"nodes": {"n002": {"mac": "52:54:00:77:00:11", "address": "10.78.0.1", "image": "compte"}}}
        with pytest.raises(Invalid) as caught:
            await apply(bus, wrong)
        assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
            "nodes.n002.image", "nodes.n002.mac", "nodes.n002.address",
        ]  # fmt: skip
        assert (await ask(bus, "export", m.Empty(), m.ExportReply)).revision == first.revision
        with pytest.raises(Invalid, match=r"images\.compute: cannot be removed: used by templates\.compute\.image"):
            await change(bus, delete(Kind.IMAGE, "compute"))


async def test_a_change_is_told_once_with_two_registries(clients: Clients) -> None:
    bus = await clients()
    heard: list[m.Changed] = []

    async def hear() -> None:
        async with bus.events("evt.*.*.changed", m.Changed, since=0) as events:
            async for _, _, event in events:
                heard.append(event)

    async with registry(await clients()), registry(await clients()):
        task = asyncio.create_task(hear())
        reply = await apply(bus)
        await until(lambda: _ready(len(heard) >= 5))
        last = await change(bus, delete(Kind.NODE, "n001"))
        await until(lambda: _ready(len(heard) >= 6))
        await asyncio.sleep(0.2)  # time for a second one that must not come
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(event.kind, event.name, event.what) for event in heard[5:]] == [("node", "n001", "removed")]
    assert {(event.author, event.revision) for event in heard} == {("ada", reply.revision), ("ada", last.revision)}


async def _ready(value: bool) -> bool:
    return value


async def test_a_node_is_shown(clients: Clients) -> None:
    bus = await clients()
    async with registry(await clients()):
        await apply(bus)
        reply = await ask(bus, "show-node", m.ShowNodeRequest(node="n001"), m.ShowNodeReply)
        (image,) = (value for value in reply.values if value.field == "image")
        assert (image.value, image.source) == ("compute", "template compute")


async def test_unknown_machines_are_listed_until_they_are_registered(clients: Clients) -> None:
    bus = await clients()
    at = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)

    async def listed() -> list[m.Machine]:
        return (await ask(bus, "discovered", m.Empty(), m.MachinesReply)).machines

    async def see(mac: str, minutes: int, subject: str | None = None) -> None:
        seen = m.MachineSeen(mac=mac, at=at + timedelta(minutes=minutes))
        await bus.publish(subject or f"evt.machine.{mac}.seen", seen)

    async with registry(await clients()), registry(await clients()):
        await apply(bus)
        await see("525400770098", 0)
        await until(lambda: _lists(listed, 1))
        await see("525400770099", 1)
        await until(lambda: _lists(listed, 2))
        await see("525400770098", 2)
        await see("525400770011", 3)  # a node
        await see("525400770097", 3, subject="evt.machine.525400770096.seen")  # says two things
        await until(lambda: _says(listed, at + timedelta(minutes=2)))
        assert [(item.mac[-2:], item.first_seen) for item in await listed()] == [
            ("98", at), ("99", at + timedelta(minutes=1)),
        ]  # fmt: skip
        await change(bus, put(Kind.NODE, "n098", mac="525400770098", address="10.77.0.98"))
        assert [item.mac[-2:] for item in await listed()] == ["99"]
        state = await bus.store("state")
        await until(lambda: _absent(state, "machine.525400770098"))


async def _lists(listed: Callable[[], Awaitable[list[m.Machine]]], number: int) -> bool:
    return len(await listed()) == number


async def _says(listed: Callable[[], Awaitable[list[m.Machine]]], last: datetime) -> bool:
    return (await listed())[0].last_seen == last


async def _absent(store: Store, key: str) -> bool:
    return await store.get(key) is None


async def test_fifty_conflicting_changes_on_two_registries_have_one_winner(clients: Clients) -> None:
    operators = [await clients() for _ in range(4)]
    async with registry(await clients()), registry(await clients()):
        first = await apply(operators[0])

        async def take(number: int) -> str:
            node = put(Kind.NODE, f"m{number:03}", mac="525400770050", address="10.77.0.50")
            expected = first.revision if number % 2 else None
            try:
                await change(operators[number % 4], node, expected_revision=expected)
            except (Invalid, Conflict) as error:
                return type(error).__name__
            return "won"

        outcomes = await asyncio.gather(*(take(number) for number in range(50)))
        assert outcomes.count("won") == 1
        nodes = await check_claims(await operators[0].store(RECORDS_BUCKET))
        assert len(nodes) == 2


async def test_fifty_compatible_changes_on_two_registries_all_succeed(clients: Clients) -> None:
    operators = [await clients() for _ in range(4)]
    async with registry(await clients()), registry(await clients()):
        await apply(operators[0])

        async def add(number: int) -> int:
            node = put(Kind.NODE, f"m{number:03}", mac=f"5254007701{number:02}", address=f"10.77.1.{number + 1}")
            return (await change(operators[number % 4], node)).revision

        revisions = await asyncio.gather(*(add(number) for number in range(50)))
        assert len(set(revisions)) == 50
        assert len(await check_claims(await operators[0].store(RECORDS_BUCKET))) == 51


async def test_a_registry_that_starts_later_knows_everything_and_sends_nothing_twice(clients: Clients) -> None:
    bus = await clients()
    async with registry(await clients()):
        await apply(bus)
        await change(bus, delete(Kind.NODE, "n001"))
        state = await bus.store("state")
        revision = (await ask(bus, "export", m.Empty(), m.ExportReply)).revision
        await until(lambda: _position(state, revision))
    async with registry(await clients()):
        # claims that were deleted are taken again, at the revisions of their tombstones
        await apply(bus)
        assert (await ask(bus, "export", m.Empty(), m.ExportReply)).document == DOCUMENT
    heard: list[str] = []
    async with bus.events("evt.*.*.changed", m.Changed, since=0) as events:
        async for _, subject, _ in events:
            heard.append(subject)
            if len(heard) == 7:
                break
    assert heard.count("evt.network.boot.changed") == 1
    assert heard.count("evt.node.n001.changed") == 3


async def _position(state: Store, revision: int) -> bool:
    entry = await state.get("registry.effects")
    return entry is not None and unpack(entry.value or b"")["revision"] == revision


async def test_effects_that_a_dead_registry_did_not_send_are_sent_by_the_next(clients: Clients) -> None:
    bus = await clients()
    async with registry(await clients()):
        await apply(bus, {"networks": DOCUMENT["networks"]})
        state = await bus.store("state")
        revision = (await ask(bus, "export", m.Empty(), m.ExportReply)).revision
        await until(lambda: _position(state, revision))
        before = await state.get("registry.effects")
        assert before is not None
        await apply(bus)
        revision = (await ask(bus, "export", m.Empty(), m.ExportReply)).revision
        await until(lambda: _position(state, revision))
    # as if it had died after the second commit, more than the stream's two minutes of memory ago
    await state.put("registry.effects", before.value or b"")
    async with registry(await clients()), bus.work("job.image.build", m.BuildImageJob) as jobs:
        job = await anext(aiter(jobs))
        assert job.message.name == "compute"
        await job.done()
        await until(lambda: _position(state, revision))


async def test_messages_of_an_enemy_change_nothing_and_break_nothing(clients: Clients) -> None:
    """A few hundred requests of random content: each is answered with an error that names something, or is harmless."""
    bus = await clients()
    rubbish = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9) | st.binary(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=8,
    )
    async with registry(await clients()):
        first = await apply(bus)
        for document in _examples(
            st.dictionaries(st.sampled_from(["nodes", "templates", "global", "x"]), rubbish), 100
        ):
            with pytest.raises(Invalid):
                await apply(bus, {**document, "nodes": {"bad name": document}})
        for record in _examples(st.dictionaries(st.text(max_size=9), rubbish, max_size=3), 100):
            for kind in (Kind.NODE, Kind.IMAGE_RELEASE):
                with pytest.raises(Invalid):
                    await change(bus, put(kind, "n009", **{**record, "zz": 1}))
            for body in (pack(record), json.dumps(record, default=repr).encode()):
                request = m.PublishImageRequest(name="compute", manifest=m.SignedManifest(body=body))
                with pytest.raises(Invalid):
                    await ask(bus, "publish-image", request, m.ChangeReply)
        out = await ask(bus, "export", m.Empty(), m.ExportReply)
        assert (out.document, out.revision) == (DOCUMENT, first.revision)


def _examples(strategy: st.SearchStrategy[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    @settings(max_examples=number, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(example: dict[str, Any]) -> None:
        found.append(example)

    collect()
    return found


def test_every_kind_of_record_is_known_here() -> None:
    assert set(RECORD_TYPES) == set(Kind)
