"""Images and trees that are published to the registry: who may, and who is told to build and to boot them."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab.certificates import Authority
from lab.nats_server import NatsServer
from lab.registry import DOCUMENT, Clients, apply, ask, registry, until
from shoal_bus.api import Bus
from shoal_bus.errors import Denied, NotFound, Unavailable
from shoal_bus.nats import NatsBus
from shoal_identity import signatures
from shoal_identity.keys import Key
from shoal_identity.trust import Trust
from shoal_model import messages as m
from shoal_model.records import ImageManifest, Kind


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
