"""Documents to configurations and back; what does not fit is named by its path."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.keys import public_key
from shoal_bus.codec import pack, unpack
from shoal_bus.errors import Invalid
from shoal_model.records import Cluster, Kind
from shoal_registry import document

NODE = {"mac": "52:54:00:77:00:11", "address": "10.77.0.11"}

WRONG = [
    ({"nodes": {"n001": {**NODE, "mac": "52:54"}}}, "nodes.n001.mac: '52:54' is not a hardware address"),
    (
        {"nodes": {"n001": {**NODE, "adress": "x"}}},
        "nodes.n001.adress: there is no such field; did you mean 'address'?",
    ),
    ({"nodes": {"n001": {"mac": NODE["mac"]}}}, "nodes.n001.address: is required"),
    ({"nodes": {"N 1": {"bad": 1}}}, "nodes.N 1: 'N 1' is not a name"),
    ({"nodes": {"n001": None}}, "nodes.n001: expected a map of fields, not None"),
    ({"nodes": ["n001"]}, "nodes: expected a map of fields, not ['n001']"),
    ({"node": {}}, "node: there is no such field; did you mean 'nodes'?"),
    ({"globl": {}}, "globl: there is no such field; did you mean 'global'?"),
    ({"global": {"boot": {"styl": "roram"}}}, "global.boot.styl: there is no such field; did you mean 'style'?"),
    ({"templates": {"a": {"boot": {"style": "disk"}}}}, "templates.a.boot.style: expected 'roram', not 'disk'"),
    ({"nodes": {"n001": {**NODE, "nics": [{"mack": 1}]}}}, "nodes.n001.nics.0.mac: is required"),
    ({"images": {"a": {"flavor": "b", "version": 1.0}}}, "images.a.version: expected text, not 1.0; put it in quotes"),
    ({"images": {"a": {"flavor": "b", "version": "1", "modules": ["x"]}}}, "images.a: `modules` must contain core"),
    ({"networks": {"b": {"cidr": "10.0.0.1/24"}}}, "networks.b.cidr: 10.0.0.1/24 has host bits set"),
    ({"networks": {"b": {"cidr": "10.0.0.0/24", "boot": True}}}, "networks.b: the boot network needs `head`"),
    ({"templates": {"a": {"boot": {"parameters": "a\nb"}}}}, "templates.a.boot.parameters: control characters"),
    ({"nods": None}, "nods: there is no such field; did you mean 'nodes'?"),
    (
        {"networks": {"b": {"cidr": "10.0.0.0/24", "domain": "not a domain!"}}},
        "networks.b.domain: 'not a domain!' is not a domain: expected names of letters, digits and dashes",
    ),
    ({"global": {"authorized_keys": ["garbage"]}}, "global.authorized_keys.0: 'garbage' is not an OpenSSH public key"),
    (
        {"boot_configs": {"a": {"parameters": "quiet ip=dhcp"}}},
        "boot_configs.a.parameters: the kernel parameter 'ip=dhcp' is one that Shoal sets for each node itself",
    ),
    ({"templates": {"a": {"boot": {"root_size": "0"}}}}, "templates.a.boot.root_size: '0' is not a tmpfs size"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[case[1].partition(":")[0] for case in WRONG])
def test_what_does_not_fit_is_named_with_its_path(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        document.parse(wrong)
    assert str(caught.value).startswith(message)


def refusal(whole: dict[str, Any]) -> str | None:
    try:
        document.parse(whole)
    except Invalid as error:
        return str(error)
    return None


def test_a_misspelt_field_deep_inside_gets_the_names_of_its_own_model() -> None:
    with pytest.raises(Invalid, match=r"nics\.0\.adress: there is no such field; did you mean 'address'"):
        document.parse({"nodes": {"n001": {**NODE, "nics": [{"adress": 1}]}}})


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        document.parse({"nodes": {"n001": {"mac": 1}, "n002": 3}, "x": 1})
    paths = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert paths == ["nodes.n001.mac", "nodes.n001.address", "nodes.n002", "x"]


def test_a_name_that_python_alone_has_for_a_section_is_none() -> None:
    for content in ({"image": "compute"}, None):
        with pytest.raises(Invalid, match=r"^global_: there is no such field; did you mean 'global'"):
            document.parse({"global_": content})


def test_a_section_without_content_is_an_empty_one() -> None:
    assert document.parse({"nodes": None, "templates": {}, "global": None}) == Cluster()


def test_a_record_by_itself_is_named_as_it_stands_in_a_document() -> None:
    with pytest.raises(Invalid, match=r"^nodes\.n001\.mac: is required"):
        document.parse_record(Kind.NODE, "n001", {"address": "10.0.0.1"})
    with pytest.raises(Invalid, match=r"^global\.image: 'A' is not a name"):
        document.parse_record(Kind.GLOBAL, "default", {"image": "A"})


def test_the_smallest_useful_document() -> None:
    cluster = document.parse(
        {
            "networks": {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}},
            "images": {"compute": {"flavor": "bookworm", "version": "1.0", "modules": ["core"]}},
            "templates": {"compute": {"image": "compute", "boot": {"parameters": "console=ttyS0"}}},
            "nodes": {"n001": {**NODE, "mac": "5254.0077.0011", "template": "compute"}},
        }
    )
    rendered = document.render(cluster)
    assert rendered["nodes"] == {"n001": {**NODE, "template": "compute"}}
    assert "global" not in rendered
    assert document.parse(rendered) == cluster


names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
lines = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=20)
parameters = lines.filter(lambda text: not {"ip", "initrd"} & set(text.split()) and "=" not in text)
keys = st.sampled_from(["ada@desk", "b", "schlüssel"]).map(public_key)
addresses = st.ip_addresses(v=4).map(str)
macs = st.integers(1, 2**40 - 1).map(lambda value: "52" + f"{value:010x}")
boots = st.fixed_dictionaries({}, optional={"config": names, "parameters": parameters, "tmp_size": st.just("1g")})
settings_ = {
    "image": names,
    "boot": boots,
    "rootfs": st.lists(names, max_size=2),
    "authorized_keys": st.lists(keys, max_size=2),
    "properties": st.dictionaries(names, lines, max_size=2),
}
documents = st.fixed_dictionaries(
    {},
    optional={
        "nodes": st.dictionaries(
            names, st.fixed_dictionaries({"mac": macs, "address": addresses}, optional=settings_), max_size=3
        ),
        "templates": st.dictionaries(names, st.fixed_dictionaries({}, optional=settings_), max_size=3),
        "properties": st.dictionaries(
            names, st.fixed_dictionaries({}, optional={"values": st.lists(lines)}), max_size=2
        ),
        "global": st.fixed_dictionaries({}, optional=settings_),
    },
)


@given(documents)
def test_a_configuration_survives_the_way_out_over_the_bus_and_in_again(whole: dict[str, Any]) -> None:
    cluster = document.parse(whole)
    assert document.parse(unpack(pack(document.render(cluster)))) == cluster


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
sections = st.sampled_from(["nodes", "networks", "images", "templates", "global", "properties", "rootfs", "zzz"])


@settings(max_examples=400)
@given(st.dictionaries(sections, json_like | st.dictionaries(st.text(), json_like)))
def test_rubbish_ends_in_a_clear_error_and_in_nothing_else(rubbish: dict[str, Any]) -> None:
    said = refusal(rubbish)
    assert said is None or 0 < len(said) < 20_000
