"""What is read off the records, what is published into them, and what follows from changes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shoal_bus.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from shoal_bus.fakes import MemoryStore
from shoal_identity import signatures
from shoal_identity.keys import Key, Role
from shoal_identity.trust import Trust
from shoal_model.messages import MachineSeen, PublishImageRequest, PublishRootfsRequest, SignedManifest
from shoal_model.records import Image, ImageManifest, ImageRelease, Kind, Node, StoredFile, compact
from shoal_model.resolve import Snapshot
from shoal_registry import document, effects, inventory, machines, publish, readings
from shoal_registry.head import Head
from shoal_registry.mirror import Batch, Moved

NOW = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
BASE: dict[str, Any] = {
    "networks": {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}},
    "images": {"compute": {"flavor": "bookworm", "version": "1.0"}, "old": {"flavor": "bookworm", "version": "1.0"}},
    "boot_configs": {"serial": {"parameters": "console=ttyS0", "image": "compute"}},
    "rootfs": {"site": {}},
    "properties": {"rack": {}},
    "templates": {
        "compute": {
            "boot": {"config": "serial", "tmp_size": "1g"}, "admission": "always", "properties": {"rack": "r1"},
        },
        "bare": {},
    },
    "nodes": {
        "n001": {"mac": "525400770011", "address": "10.77.0.11", "template": "compute",
                 "boot": {"parameters": "quiet"}, "properties": {"rack": "r2"}},
        "n002": {"mac": "525400770012", "address": "10.77.0.12", "template": "bare", "name": "login"},
    },
    "global": {"boot": {"tmp_size": "2g", "parameters": "debug"}, "admission": "armed"},
}  # fmt: skip


def manifest(**fields: object) -> dict[str, Any]:
    stored = {"sha256": "a" * 64, "size": 3_000_000}
    return {
        "image": "compute", "flavor": "bookworm", "version": "1.0.1", "identity": "b" * 64, "content": "c" * 64,
        "modules": [{"name": "core", "version": "1.0.1", "sha256": "e" * 64}], "kernel_version": "6.1",
        "squashfs": stored, "kernel": stored, "initrd": stored, "blocks": ["d" * 64] * 3, **fields,
    }  # fmt: skip


KEY = Key.new()
TRUST = Trust("", (Key.new().public, KEY.public))


def release(key: Key | None = None, **fields: object) -> ImageRelease:
    return publish.signed_release(request(key, **fields), None, NOW)


def request(key: Key | None = None, **fields: object) -> PublishImageRequest:
    """What an image builder with this key hands in."""
    body = ImageManifest.model_validate(manifest(**fields)).body()
    signed = SignedManifest(body=body)
    if key is not None:
        signed = SignedManifest(body=body, key=key.public, signature=signatures.sign(body, key))
    return PublishImageRequest(name="compute", manifest=signed)


def snapshot(*, built: ImageRelease | None = None) -> Snapshot:
    releases = {} if built is None else {"compute": built}
    return Snapshot(cluster=document.parse(BASE), image_releases=releases, rootfs_releases={})


# --- boot and show ----------------------------------------------------------------------------------------


def test_a_node_boots_the_release_of_its_image() -> None:
    reply = readings.boot(snapshot(built=release()), "n001", tls=False)
    assert (reply.node, reply.name, reply.tmp_size, reply.root_size) == ("n001", "n001", "1g", "50%")
    assert reply.manifest == request().manifest
    assert reply.sources == ["http://10.77.0.1:8081", "http://10.77.0.1:8080"]


def test_a_node_gets_the_manifest_as_it_was_signed_and_images_over_tls() -> None:
    stored = ImageRelease.model_validate(compact(release(KEY)))
    reply = readings.boot(snapshot(built=stored), "n001", tls=True)
    signatures.check(reply.manifest.body, reply.manifest.key, reply.manifest.signature, TRUST.image_keys)
    assert ImageManifest.model_validate_json(reply.manifest.body).kernel_version == "6.1"
    assert reply.sources == ["https://10.77.0.1:8081", "http://10.77.0.1:8080"]


def test_a_release_that_was_stored_before_there_were_signatures_is_read() -> None:
    stored = ImageRelease.model_validate({"manifest": manifest(), "built": NOW})
    reply = readings.boot(snapshot(built=stored), "n001", tls=True)
    assert (reply.manifest.key, reply.manifest.signature) == ("", b"")


def test_what_is_missing_for_a_boot_is_said_with_the_way_out() -> None:
    with pytest.raises(Unavailable, match=r"image compute has no build yet: run `shoal image build compute`"):
        readings.boot(snapshot(), "n001", tls=False)
    with pytest.raises(NotFound, match="node n002 has no image; give it one"):
        readings.boot(snapshot(), "n002", tls=False)
    with pytest.raises(NotFound, match="there is no node 'n01'; did you mean 'n001'"):
        readings.boot(snapshot(), "n01", tls=False)


def test_a_node_is_shown_with_sources_and_what_they_override() -> None:
    values = {value.field: value for value in readings.show(snapshot(), "n001").values}
    assert (values["image"].value, values["image"].source) == ("compute", "boot config serial")
    assert (values["boot.tmp_size"].value, values["boot.tmp_size"].source) == ("1g", "template compute")
    assert [(hidden.value, hidden.source) for hidden in values["boot.tmp_size"].overridden] == [("2g", "global")]
    assert values["boot.parameters"].value == "quiet"
    assert [(hidden.value, hidden.source) for hidden in values["boot.parameters"].overridden] == [
        ("console=ttyS0", "boot config serial"),
        ("debug", "global"),
    ]
    assert values["properties.rack"].source == "host n001"
    assert [hidden.value for hidden in values["properties.rack"].overridden] == ["r1"]
    assert (values["network"].value, values["network"].source) == ("boot", "boot network")
    assert values["boot.root_size"].source == "default"
    assert (values["admission"].value, values["admission"].source) == ("always", "template compute")
    assert [(hidden.value, hidden.source) for hidden in values["admission"].overridden] == [("armed", "global")]


def test_records_are_listed_whole_or_one_by_name() -> None:
    assert set(readings.records(snapshot(), Kind.IMAGE, None, 7).records) == {"compute", "old"}
    one = readings.records(snapshot(built=release()), Kind.IMAGE_RELEASE, "compute", 7)
    assert one.records["compute"]["manifest"]["kernel_version"] == "6.1"
    with pytest.raises(NotFound, match="there is no template 'compue'; did you mean 'compute'"):
        readings.records(snapshot(), Kind.TEMPLATE, "compue", 7)
    assert readings.records(snapshot(), Kind.GLOBAL, "default", 7).records["default"]["boot"]["tmp_size"] == "2g"


# --- publish ----------------------------------------------------------------------------------------------

WRONG = [
    ({"image": "other"}, "manifest.image: is 'other', but 'compute' is to be published"),
    ({"blocks": ["d" * 64] * 4}, "manifest.blocks: 3000000 bytes in blocks of 1482752 are 3 blocks, not 4"),
    ({"kernel": {"sha256": "x", "size": 1}}, "manifest.kernel.sha256: 'x' is not a SHA-256 digest"),
    ({"blokcs": []}, "manifest.blokcs: there is no such field; did you mean 'blocks'?"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[case[1][:20] for case in WRONG])
def test_a_manifest_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    refuse(json.dumps(manifest(**fields)).encode(), message)


def refuse(body: bytes, message: str) -> None:
    signed = SignedManifest(body=body, key=KEY.public, signature=signatures.sign(body, KEY))
    with pytest.raises(Invalid) as caught:
        publish.signed_release(PublishImageRequest(name="compute", manifest=signed), TRUST, NOW)
    assert [line for line in str(caught.value).splitlines() if line.startswith(message)]


def test_a_body_that_is_no_manifest_to_the_last_byte_is_refused() -> None:
    body = request().manifest.body
    for rubbish in (b"", b"\xff", b"[" * 10_000, body[:-1], body + b"x"):
        refuse(rubbish, "manifest.body: is no JSON: ")
    refuse(b"[]", "manifest: expected a map of fields, not []")
    twice = body.replace(b'"flavor":', b'"flavor":"jammy","flavor":')
    for other in (json.dumps(json.loads(body)).encode(), body + b"\n", twice):
        refuse(other, "manifest.body: is not written as manifests are")


def test_a_manifest_is_taken_from_those_alone_who_may_sign_images() -> None:
    got = publish.signed_release(request(KEY), TRUST, NOW)
    assert got.signature is not None
    assert (got.signature.key, got.built) == (KEY.public, NOW)
    signed, other = request(KEY).manifest, request(KEY, version="1.0.2").manifest
    forged = [
        (SignedManifest(body=signed.body), "the manifest is not signed: start image-builder with an image key"),
        (signed.model_copy(update={"signature": b""}), "the manifest is not signed"),
        (signed.model_copy(update={"key": ""}), "the manifest is not signed"),
        (signed.model_copy(update={"body": other.body}), "the signature of the manifest is wrong"),
        (signed.model_copy(update={"signature": other.signature}), "the signature of the manifest is wrong"),
        (request(Key.new()).manifest, "which is no image key of this cluster"),
    ]
    for manifest, message in forged:
        with pytest.raises(Denied, match=message):
            publish.signed_release(PublishImageRequest(name="compute", manifest=manifest), TRUST, NOW)


def test_without_trust_a_manifest_may_be_unsigned_but_not_signed_wrongly() -> None:
    assert publish.signed_release(request(), None, NOW).signature is None
    damaged = request(KEY).manifest.model_copy(update={"signature": bytes(64)})
    with pytest.raises(Denied, match="the signature of the manifest is wrong"):
        publish.signed_release(PublishImageRequest(name="compute", manifest=damaged), None, NOW)
    with pytest.raises(Invalid, match=r"manifest\.key: "):
        publish.signed_release(request(Key.new(Role.ACCOUNT)), None, NOW)


def test_a_release_again_changes_something_only_if_manifest_or_signature_do() -> None:
    state = snapshot(built=release(KEY))
    later = publish.signed_release(request(KEY), None, NOW + timedelta(hours=1))
    assert publish.image_release(state, later) == {}
    for newer in (release(KEY, identity="f" * 64), release(Key.new()), release()):
        assert publish.image_release(state, newer) == {(Kind.IMAGE_RELEASE, "compute"): newer}


def test_a_build_of_what_the_image_is_no_more_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="its flavor is bookworm, the build's jammy; build it again"):
        publish.image_release(snapshot(), release(flavor="jammy"))
    with pytest.raises(Conflict, match="the build lacks core"):
        publish.image_release(snapshot(), release(modules=[]))
    gone = ImageRelease(manifest=ImageManifest.model_validate(manifest(image="gone")), built=NOW)
    with pytest.raises(NotFound, match="there is no image 'gone'"):
        publish.image_release(snapshot(), gone)


def test_a_committed_tree_becomes_a_release_of_a_recorded_customization() -> None:
    archive = StoredFile(sha256="a" * 64, size=5)
    got = publish.rootfs_release(snapshot(), PublishRootfsRequest(name="site", archive=archive, files=2), NOW)
    state = inventory.replace(snapshot(), got)
    assert state.rootfs_releases["site"].files == 2
    assert publish.rootfs_release(state, PublishRootfsRequest(name="site", archive=archive, files=2), NOW) == {}
    with pytest.raises(NotFound, match="there is no Root FS customization 'sit'; did you mean 'site'"):
        publish.rootfs_release(snapshot(), PublishRootfsRequest(name="sit", archive=archive, files=2), NOW)


# --- effects ----------------------------------------------------------------------------------------------


def batch(*moved: Moved, initial: bool = False) -> Batch:
    head = Head(revision=10, author="ada", at=NOW, change="c1")
    return Batch(head, 20, moved, initial)


IMAGE = Image(flavor="bookworm", version="1.0")
NODE = Node(mac="525400770011", address="10.77.0.11")


def test_every_moved_record_is_an_event_and_an_image_a_build() -> None:
    got = list(
        effects.effects(
            batch(
                Moved((Kind.NODE, "n001"), None, NODE, 11),
                Moved((Kind.TEMPLATE, "t"), snapshot().cluster.templates["bare"], None, 12),
                Moved((Kind.IMAGE, "compute"), IMAGE, IMAGE.model_copy(update={"version": "1.1"}), 13),
            ),
            position=0,
        )
    )
    assert [(effect.subject, effect.work) for effect in got] == [
        ("evt.node.n001.changed", False),
        ("evt.template.t.changed", False),
        ("evt.image.compute.changed", False),
        ("job.image.build", True),
    ]
    assert [effect.message.model_dump().get("what") for effect in got] == ["added", "removed", "changed", None]
    assert got[0].id == "node.n001-11"


def test_effects_sent_before_are_not_made_again() -> None:
    moved = Moved((Kind.NODE, "n001"), None, NODE, 11)
    assert list(effects.effects(batch(moved), position=11)) == []


def test_a_release_is_published() -> None:
    got = list(effects.effects(batch(Moved((Kind.IMAGE_RELEASE, "compute"), None, release(), 12)), 0))
    assert [effect.subject for effect in got] == ["evt.image-release.compute.changed", "evt.image.compute.published"]


def test_what_was_missed_is_told_without_an_invented_author() -> None:
    missed = batch(Moved((Kind.NODE, "n001"), None, NODE, 9), Moved((Kind.NODE, "n002"), None, None, 11), initial=True)
    first, second = (effect.message.model_dump() for effect in effects.effects(missed, position=5))
    assert (first["what"], first["author"]) == ("changed", "unknown")
    assert (second["what"], second["author"]) == ("removed", "ada")


def test_the_id_of_a_build_follows_the_record() -> None:
    assert effects.build("a", IMAGE).id == effects.build("a", Image(flavor="bookworm", version="1.0")).id
    others = {effects.build("b", IMAGE).id, effects.build("a", IMAGE.model_copy(update={"version": "2"})).id}
    assert effects.build("a", IMAGE).id not in others
    assert len(others) == 2


def test_images_without_a_build_get_a_job_at_every_start() -> None:
    assert missing(release(), None) == ["old"]


def test_images_that_no_node_would_take_get_a_job_at_every_start_too() -> None:
    assert missing(release(KEY), TRUST.image_keys) == ["old"]
    for built in (release(), release(Key.new())):
        assert missing(built, TRUST.image_keys) == ["compute", "old"]


def missing(built: ImageRelease, image_keys: tuple[str, ...] | None) -> list[str]:
    return [effect.message.model_dump()["name"] for effect in effects.missing_builds(snapshot(built=built), image_keys)]


# --- machines ---------------------------------------------------------------------------------------------


def test_a_machine_keeps_when_it_was_first_seen_and_what_it_said_once() -> None:
    first = MachineSeen(mac="525400770099", at=NOW, vendor_class="PXEClient", architecture=7)
    second = MachineSeen(mac="525400770099", at=NOW + timedelta(minutes=1), relay="10.0.0.9", architecture=0)
    machine = machines.merge(machines.merge(None, first), second)
    assert (machine.first_seen, machine.last_seen) == (NOW, NOW + timedelta(minutes=1))
    assert (machine.vendor_class, machine.architecture, machine.relay) == ("PXEClient", 0, "10.0.0.9")
    assert machines.merge(machine, first).last_seen == NOW + timedelta(minutes=1)


async def test_the_list_is_bounded_and_who_was_not_seen_for_longest_makes_room() -> None:
    store = MemoryStore()
    listed = machines.Machines(store, {"52:54:00:77:00:11": "n001"}.get, limit=2)
    following = asyncio.create_task(listed.follow())
    for minute, mac in enumerate(["525400770091", "525400770092", "525400770091", "525400770093", "525400770011"]):
        seen = MachineSeen(mac=mac, at=NOW + timedelta(minutes=minute))
        await listed.seen(f"evt.machine.{mac}.seen", seen)
        for _ in range(10):
            await asyncio.sleep(0)  # lets the watch show it
    assert [machine.mac[-2:] for machine in listed.listed()] == ["93", "91"]
    assert {entry.key for entry in await store.load() if entry.value} == {
        "machine.525400770091",
        "machine.525400770093",
    }
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
