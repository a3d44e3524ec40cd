"""Names, hardware addresses, digests and subjects: what stands in keys, subjects and paths."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_model import names, subjects
from shoal_model.subjects import Service, Stage

GOOD_NAMES = ["a", "n001", "0", "a-b", "x" * 63]
BAD_NAMES = ["", "-a", "a-", "A", "a.b", "a b", "x" * 64, "ä", "a\n", "a*", ">", "a/b", "..", "\u0661"]


@pytest.mark.parametrize("value", GOOD_NAMES)
def test_names(value: str) -> None:
    assert names.name(value) == value


@pytest.mark.parametrize("value", BAD_NAMES)
def test_what_is_no_name_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is not a name: use 1 to 63 lower-case letters"):
        names.name(value)


MACS = [
    ("52:54:00:77:00:11", "52:54:00:77:00:11"),
    ("52-54-00-77-00-1A", "52:54:00:77:00:1a"),
    ("5254.0077.0011", "52:54:00:77:00:11"),
    (" 525400770011 ", "52:54:00:77:00:11"),
    ("80" + "00" * 18 + "01", "80:" + "00:" * 18 + "01"),
]


@pytest.mark.parametrize(("written", "canonical"), MACS)
def test_hardware_addresses_have_one_form(written: str, canonical: str) -> None:
    assert names.mac(written) == canonical
    assert names.mac(canonical) == canonical
    assert names.mac_key(written) == canonical.replace(":", "")


@pytest.mark.parametrize("value", ["", "52:54:00:77:00", "52:54:00:77:00:11:22", "52:54:00:77:00:1g", "525400770011 0"])
def test_what_is_no_hardware_address_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is not a hardware address"):
        names.mac(value)


@pytest.mark.parametrize("value", ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"])
def test_no_machine_has_a_group_or_null_address(value: str) -> None:
    with pytest.raises(ValueError, match="group or null address"):
        names.mac(value)


def outcome(check: Callable[[str], str], text: str) -> tuple[str | None, str]:
    """What a check made of a text, or what it said against it."""
    try:
        return check(text), ""
    except ValueError as error:
        return None, str(error)


@given(st.text(max_size=80), st.sampled_from([names.name, names.mac, names.digest]))
def test_any_text_is_in_canonical_form_after_its_check_or_a_clear_error(text: str, check: Callable[[str], str]) -> None:
    found, said = outcome(check, text)
    if found is None:
        assert "is not a" in said or "group or null" in said
    else:
        assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-:")
        assert check(found) == found


def test_digests() -> None:
    assert names.digest("ab" * 32) == "ab" * 32
    for wrong in ("AB" * 32, "ab" * 31, "ab" * 32 + "\n", ""):
        with pytest.raises(ValueError, match="is not a SHA-256 digest"):
            names.digest(wrong)


def test_host_ids_are_what_gethostip_prints() -> None:
    assert names.host_id("10.77.0.11") == "0A4D000B"


@given(st.ip_addresses(v=4))
def test_host_ids_are_the_address(address: ipaddress.IPv4Address) -> None:
    assert int(names.host_id(str(address)), 16) == int(address)


def test_subjects() -> None:
    assert subjects.rpc(Service.REGISTRY, "change") == "rpc.registry.v1.change"
    assert subjects.rpc(Service.MCASTD, "join", "n001") == "rpc.mcastd.v1.join.n001"
    assert subjects.rpc_of_every_node(Service.REGISTRY, "boot") == "rpc.registry.v1.boot.*"
    assert subjects.event("image", "compute", "published") == "evt.image.compute.published"
    assert subjects.boot_event("n001", Stage.DHCP_ACK) == "evt.boot.n001.dhcp.ack"
    assert subjects.node_topic("n001", "options") == "node.n001.options"
    assert subjects.job("image", "build") == "job.image.build"


def test_a_subject_names_its_node() -> None:
    assert subjects.node_in(subjects.rpc(Service.REGISTRY, "boot", "n001")) == "n001"
    assert subjects.node_in(subjects.boot_event("n001", Stage.DHCP_ACK)) == "n001"
    assert subjects.node_in(subjects.node_topic("n001", "heartbeat")) == "n001"
    for wrong in ("node", "evt.boot", "", "rpc.registry.v1.boot.N1", "evt.boot.*.x"):
        with pytest.raises(ValueError, match=r"is not a name|names no node"):
            subjects.node_in(wrong)


@pytest.mark.parametrize("evil", ["a.b", "*", ">", "a b", ""])
def test_nothing_slips_into_a_subject_but_one_token(evil: str) -> None:
    makers: list[Callable[[], str]] = [
        lambda: subjects.rpc(Service.REGISTRY, "boot", evil),
        lambda: subjects.rpc(Service.REGISTRY, evil),
        lambda: subjects.event("image", evil, "published"),
        lambda: subjects.boot_events(evil),
        lambda: subjects.node_log(evil),
        lambda: subjects.node_topic(evil, "exec"),
        lambda: subjects.job("image", evil),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="is not a name"):
            make()
