"""The registry as others meet it, on the bus in memory and on a real nats-server: the same tests for both."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from lab.certificates import Authority
from lab.nats_server import NatsServer
from shoal_bus.api import Bus, Store
from shoal_bus.codec import pack, unpack
from shoal_bus.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from shoal_bus.nats import NatsBus
from shoal_identity import signatures
from shoal_identity.keys import Key
from shoal_identity.trust import Trust
from shoal_model import messages as m
from shoal_model.records import RECORD_TYPES, ImageManifest, Kind, Node, parse_key
from shoal_model.subjects import RECORDS_BUCKET, Service, rpc
from shoal_registry import claims, service

R = TypeVar("R", bound=BaseModel)
Clients = Callable[[], Awaitable[Bus]]

DOCUMENT: dict[str, Any] = {
    "networks": {"boot": {"cidr": "10.77.0.0/16", "head": "10.77.0.1", "boot": True}},
    "images": {"compute": {"flavor": "bookworm", "version": "1.0"}},
    "rootfs": {"site": {}},
    "templates": {"compute": {"image": "compute"}},
    "nodes": {"n001": {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", "template": "compute"}},
}


@asynccontextmanager
async def registry(bus: Bus, trust: Trust | None = None) -> AsyncIterator[None]:
    """A registry that answers, until the block ends."""
    answers = asyncio.Event()

    async def live() -> None:
        async with asyncio.TaskGroup() as tasks:
            await service.start(bus, tasks, lambda: datetime.now(UTC), "0", trust)
            answers.set()

    task = asyncio.create_task(live())
    ready = asyncio.create_task(answers.wait())
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    assert answers.is_set(), "the registry did not start"
    yield
    assert not task.done(), "the registry ended by itself"
    await bus.drain()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ask(bus: Bus, verb: str, request: BaseModel, reply: type[R], node: str | None = None) -> R:
    return await bus.call(rpc(Service.REGISTRY, verb, node), request, reply, timeout=30)


async def apply(bus: Bus, document: dict[str, Any] = DOCUMENT, *, prune: bool = False) -> m.ChangeReply:
    return await ask(bus, "apply", m.ApplyRequest(document=document, author="ada", prune=prune), m.ChangeReply)


async def change(bus: Bus, *operations: m.Operation, expected_revision: int | None = None) -> m.ChangeReply:
    request = m.ChangeRequest(operations=list(operations), author="ada", expected_revision=expected_revision)
    return await ask(bus, "change", request, m.ChangeReply)


def put(kind: Kind, name: str, /, **record: object) -> m.Operation:
    return m.Operation(action=m.Action.PUT, kind=kind, name=name, record=record)


def delete(kind: Kind, name: str) -> m.Operation:
    return m.Operation(action=m.Action.DELETE, kind=kind, name=name)


def built(key: Key | None = None) -> m.PublishImageRequest:
    """A build of image compute, signed with a key."""
    stored = {"sha256": "a" * 64, "size": 3_000_000}
    body = ImageManifest.model_validate({
        "image": "compute", "flavor": "bookworm", "version": "1.0.1", "identity": "b" * 64, "content": "c" * 64,
        "modules": [{"name": "core", "version": "1.0.1", "sha256": "e" * 64}], "kernel_version": "6.1",
        "squashfs": stored, "kernel": stored, "initrd": stored, "blocks": ["d" * 64] * 3,
    }).body()  # fmt: skip
    if key is None:
        return m.PublishImageRequest(name="compute", manifest=m.SignedManifest(body=body))
    signed = m.SignedManifest(body=body, key=key.public, signature=signatures.sign(body, key))
    return m.PublishImageRequest(name="compute", manifest=signed)


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as it holds; fail after 10 s."""
    async with asyncio.timeout(10):
        while not await check():  # noqa: ASYNC110 - nothing tells us when it does
            await asyncio.sleep(0.01)


async def check_claims(store: Store) -> dict[str, Node]:
    """The nodes in the bucket; every claim is a node's, and every node has its claims."""
    entries = [entry for entry in await store.load() if entry.value is not None]
    nodes = {
        parse_key(entry.key)[1]: Node.model_validate(unpack(entry.value or b""))
        for entry in entries
        if entry.key.startswith("node.")
    }
    held = {entry.key: unpack(entry.value or b"")["node"] for entry in entries if entry.key.startswith("claim.")}
    assert held == {claim: name for name, node in nodes.items() for claim in claims.of(name, node)}
    return nodes


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


async def test_an_image_is_built_published_booted_and_gone(clients: Clients) -> None:
    bus, builder = await clients(), await clients()
    async with registry(await clients()):
        await apply(bus)
        async with builder.work("job.image.build", m.BuildImageJob) as jobs:
            job = await anext(aiter(jobs))
            assert job.message == m.BuildImageJob(name="compute")
            with pytest.raises(Unavailable, match="image compute has no build yet: run `shoal image build compute`"):
                await ask(bus, "boot", m.BootRequest(boot="b1"), m.BootReply, node="n001")
            published = await ask(builder, "publish-image", built(), m.ChangeReply)
            await job.done()
        assert [(item.kind, item.what) for item in published.changes] == [("image-release", "added")]
        boot = await ask(bus, "boot", m.BootRequest(boot="b1"), m.BootReply, node="n001")
        assert (boot.node, boot.manifest) == ("n001", built().manifest)
        async with bus.events("evt.image.compute.published", m.ImagePublished, since=0) as events:
            async with asyncio.timeout(10):
                assert (await anext(aiter(events)))[2].digest == "a" * 64
        await apply(bus, {"networks": DOCUMENT["networks"]}, prune=True)
        with pytest.raises(NotFound):
            await ask(bus, "list", m.RecordsRequest(kind=Kind.IMAGE_RELEASE, name="compute"), m.RecordsReply)


async def test_a_head_with_keys_publishes_signed_images_alone(clients: Clients) -> None:
    bus, key = await clients(), Key.new()
    async with registry(await clients(), Trust("", (key.public,))):
        first = await apply(bus)
        for wrong in (built(), built(Key.new())):
            with pytest.raises(Denied):
                await ask(bus, "publish-image", wrong, m.ChangeReply)
        assert (await ask(bus, "export", m.Empty(), m.ExportReply)).revision == first.revision
        await ask(bus, "publish-image", built(key), m.ChangeReply)
        boot = await ask(bus, "boot", m.BootRequest(boot="b1"), m.BootReply, node="n001")
        assert (boot.manifest, boot.sources[0]) == (built(key).manifest, "https://10.77.0.1:8081")
        again = await ask(bus, "publish-image", built(key), m.ChangeReply)
        assert again.changes == []


async def test_a_registry_trusts_what_the_file_of_its_head_names(nats_server: NatsServer, tmp_path: Path) -> None:
    key, ca = Key.new(), tmp_path / "ca.crt"
    ca.write_bytes(replace(Authority().trust, image_keys=(key.public,)).dump())
    command = [str(Path(sys.executable).parent / "shoal-registry"), "--ca", str(ca), "--metrics", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "SHOAL_NATS": nats_server.url})
    bus = await NatsBus.connect([nats_server.url], name="test", timeout=10)
    try:
        await until(lambda: _applied(bus))
        with pytest.raises(Denied, match=r"ca\.crt"):
            await ask(bus, "publish-image", built(), m.ChangeReply)
        assert (await ask(bus, "publish-image", built(key), m.ChangeReply)).changes
    finally:
        await bus.close()
        process.terminate()
        assert await process.wait() == 0


async def _applied(bus: Bus) -> bool:
    try:
        await apply(bus)
    except Unavailable:
        return False
    return True


async def test_an_image_that_was_published_before_the_head_had_keys_is_built_again(clients: Clients) -> None:
    bus = await clients()
    async with registry(await clients()):
        await apply(bus)
        async with bus.work("job.image.build", m.BuildImageJob) as jobs:
            await (await anext(aiter(jobs))).done()
        await ask(bus, "publish-image", built(), m.ChangeReply)
    async with registry(await clients(), Trust("", (Key.new().public,))):
        boot = await ask(bus, "boot", m.BootRequest(boot="b1"), m.BootReply, node="n001")
        assert boot.manifest == built().manifest
        async with asyncio.timeout(10), bus.work("job.image.build", m.BuildImageJob) as jobs:
            job = await anext(aiter(jobs))
            assert job.message.name == "compute"
            await job.done()


async def test_a_tree_is_published(clients: Clients) -> None:
    bus = await clients()
    async with registry(await clients()):
        await apply(bus)
        request = m.PublishRootfsRequest.model_validate(
            {"name": "site", "archive": {"sha256": "a" * 64, "size": 3}, "files": 1}
        )
        await ask(bus, "publish-rootfs", request, m.ChangeReply)
        got = await ask(bus, "list", m.RecordsRequest(kind=Kind.ROOTFS_RELEASE), m.RecordsReply)
        assert got.records["site"]["archive"]["size"] == 3


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
