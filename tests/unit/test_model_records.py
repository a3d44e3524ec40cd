"""Records: what a field may be, and how a record stands in YAML and in the store."""

from typing import Any

import pytest
from pydantic import ValidationError

from shoal_bus.codec import decode, encode, pack, unpack
from shoal_bus.errors import Invalid
from shoal_model import messages as m
from shoal_model.records import (
    RECORD_TYPES,
    SECTIONS,
    BootSettings,
    Cluster,
    Geometry,
    Image,
    Kind,
    Network,
    Node,
    compact,
    parse_key,
    record_key,
    usable,
)
from shoal_model.subjects import Stage

NODE = {"mac": "525400770011", "address": "10.77.0.11"}

WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    (Node, {**NODE, "mac": "x"}, "mac"),
    (Node, {**NODE, "address": "10.77.0.256"}, "address"),
    (Node, {**NODE, "address": "010.77.0.1"}, "address"),
    (Node, {**NODE, "address": "::1"}, "address"),
    (Node, {**NODE, "name": "N1"}, "name"),
    (Node, {**NODE, "unknown": 1}, "unknown"),
    (Node, {**NODE, "boot": {"parameters": "a\x00b"}}, "boot"),
    (Node, {**NODE, "boot": {"parameters": "x" * 2001}}, "boot"),
    (Node, {**NODE, "properties": {"A": "x"}}, "properties"),
    (BootSettings, {"tmp_size": "101%"}, "tmp_size"),
    (BootSettings, {"tmp_size": "-1"}, "tmp_size"),
    (BootSettings, {"tmp_size": "1 g"}, "tmp_size"),
    (BootSettings, {"style": "disk"}, "style"),
    (Network, {"cidr": "10.0.0.1/24"}, "cidr"),
    (Network, {"cidr": "10.0.0.0/24", "nameservers": ["1.1.1.1"] * 4}, "nameservers"),
    (Image, {"flavor": "bookworm", "version": "1.0.0.0"}, "version"),
    (Image, {"flavor": "bookworm", "version": "1.0\n"}, "version"),
    (Image, {"flavor": "bookworm", "version": "1", "modules": []}, "modules"),
]


@pytest.mark.parametrize(("model", "data", "field"), WRONG)
def test_a_wrong_field_is_refused_by_its_name(model: type[Any], data: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_networks_check_their_own_addresses() -> None:
    with pytest.raises(ValidationError, match="the boot network needs `head`"):
        Network(cidr="10.0.0.0/24", boot=True)
    with pytest.raises(ValidationError, match=r"gateway 10\.0\.1\.1 is not a host address of 10\.0\.0\.0/24"):
        Network(cidr="10.0.0.0/24", gateway="10.0.1.1")


def test_images_are_built_on_core() -> None:
    assert Image(flavor="bookworm", version="1.0").modules == ["core"]
    with pytest.raises(ValidationError, match="must contain core"):
        Image(flavor="bookworm", version="1.0", modules=["slurm"])
    with pytest.raises(ValidationError, match="names a module twice"):
        Image(flavor="bookworm", version="1.0", modules=["core", "core"])


def test_a_record_stands_without_its_defaults() -> None:
    node = Node.model_validate({**NODE, "boot": {"tmp_size": "1g"}, "rootfs": []})
    assert compact(node) == {
        "mac": "52:54:00:77:00:11",
        "address": "10.77.0.11",
        "boot": {"tmp_size": "1g"},
        "rootfs": [],
    }
    assert Node.model_validate(unpack(pack(compact(node)))) == node
    assert compact(Image(flavor="a", version="1")) == {"flavor": "a", "version": "1"}
    assert compact(Cluster.model_validate({"global": {"image": "a"}})) == {"global": {"image": "a"}}


def test_keys_name_kind_and_record() -> None:
    assert record_key(Kind.BOOT_CONFIG, "serial") == "boot-config.serial"
    assert parse_key("boot-config.serial") == (Kind.BOOT_CONFIG, "serial")
    for key in ("head", "claim.mac.525400770011", ""):
        with pytest.raises(ValueError, match="is not a valid Kind"):
            parse_key(key)
    with pytest.raises(ValueError, match="is not a name"):
        record_key(Kind.NODE, "a.b")


def test_every_kind_has_a_type_and_every_section_is_one_of_the_document() -> None:
    assert set(RECORD_TYPES) == set(Kind)
    assert {*SECTIONS.values(), "global_"} == set(Cluster.model_fields)


def test_host_addresses_of_a_network() -> None:
    from ipaddress import IPv4Network

    wide, link, one = IPv4Network("10.0.0.0/24"), IPv4Network("10.0.0.0/31"), IPv4Network("10.0.0.0/32")
    assert [usable(address, wide) for address in ("10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.1")] == [
        False, True, False, False,
    ]  # fmt: skip
    assert usable("10.0.0.0", link)
    assert usable("10.0.0.1", link)
    assert usable("10.0.0.0", one)


def test_geometry_is_blocks_of_symbols() -> None:
    assert Geometry().block_size == 1448 * 1024


# --- messages on the bus ----------------------------------------------------------------------------------


def test_a_message_survives_the_bus_and_unknown_fields_are_ignored() -> None:
    event = m.BootEvent.model_validate(
        {"node": "n001", "stage": "dhcp.ack", "at": "2026-11-20T05:00:00Z", "details": {"bytes": 7, "ok": True}}
    )
    assert decode(encode(event), m.BootEvent) == event
    newer = {**unpack(encode(event)), "added_later": [1, {"x": b"y"}]}
    assert decode(pack(newer), m.BootEvent) == event
    assert event.stage is Stage.DHCP_ACK


def test_bytes_stay_bytes() -> None:
    reply = m.NodeExecReply(exit_code=0, stdout=bytes(range(256)), stderr=b"")
    assert decode(encode(reply), m.NodeExecReply).stdout == bytes(range(256))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", b"\x81\x01\x02", b"\xdf\xff\xff\xff\xff", b"\x91" * 5000])
def test_a_body_that_is_no_map_is_invalid(body: bytes) -> None:
    with pytest.raises(Invalid, match="the body"):
        decode(body, m.Empty)


def test_a_message_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(Invalid, match="BootRequest: boot: "):
        decode(pack({"boot": "x" * 65}), m.BootRequest)
    with pytest.raises(Invalid, match=r"ChangeRequest: operations\.0\.kind: "):
        decode(pack({"operations": [{"action": "put", "kind": "x", "name": "a"}], "author": "a"}), m.ChangeRequest)
