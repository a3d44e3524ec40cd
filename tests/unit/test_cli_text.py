"""What the command line reads and prints, as tables: documents, fields, node sets, safe text."""

import contextlib
import json

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_cli import documents, fields, nodesets, terminal

GROUPS = {"*": ["n001", "n002", "n003"], "compute": ["n001", "n002"]}


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("{}", {}),
        ("version: 1.10", {"version": "1.10"}),
        ("mac: 52:54:00:12:34:56", {"mac": "52:54:00:12:34:56"}),
        ("boot: yes\nsize: 0x10\nday: 2001-01-01", {"boot": "yes", "size": "0x10", "day": "2001-01-01"}),
        ("a: null\nb: ~\nc:\nd: ''", {"a": None, "b": None, "c": None, "d": ""}),
        ("a: [1, {b: [2]}]", {"a": ["1", {"b": ["2"]}]}),
        ("<<: 1", {"<<": "1"}),
    ],
)
def test_scalars_stay_as_they_are_written(text: str, data: object) -> None:
    assert documents.parse_map(text) == data


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "~"])
def test_an_empty_document_is_no_map(text: str) -> None:
    with pytest.raises(documents.DocumentError, match="the document is empty"):
        documents.parse_map(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' stands here twice"),
        ("a: &x [1]\nb: *x", "line 2: aliases (*x) are not allowed"),
        ("a: !!python/object:os.system ls", "line 1: tags"),
        ("a: !!binary aGVs", "line 1: tags"),
        ("- 1", "expected sections such as `nodes:`, found a list"),
        ("hello", "found plain text"),
        ("a: [1", "did not find expected"),
        ("[a]: 1", "must be plain text"),
        ("[" * 100_000, "nested more than 40 deep"),
        ("a: \x00", "control characters are not allowed"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(documents.DocumentError) as caught:
        documents.parse_map(text)
    assert complaint in str(caught.value)


@given(st.text())
def test_any_text_is_a_document_or_an_error(text: str) -> None:
    with contextlib.suppress(documents.DocumentError):
        assert isinstance(documents.parse_map(text), dict)


@pytest.mark.parametrize(
    ("assignments", "data"),
    [
        (["boot.parameters=console=ttyS0 quiet"], {"boot.parameters": "console=ttyS0 quiet"}),
        (["version=1.10", "mac=52:54:00:12:34:56"], {"version": "1.10", "mac": "52:54:00:12:34:56"}),
        (["rootfs=[a, b]", "image="], {"rootfs": ["a", "b"], "image": None}),
        (["properties.gpu-count=4"], {"properties.gpu-count": "4"}),
        (
            ["nics=[{mac: 52:54:00:00:00:10, network: a, address: 10.0.0.1}]"],
            {"nics": [{"mac": "52:54:00:00:00:10", "network": "a", "address": "10.0.0.1"}]},
        ),
    ],
)
def test_assignments(assignments: list[str], data: object) -> None:
    assert fields.parse(assignments) == data


@pytest.mark.parametrize(
    "wrong", [["image"], ["=1"], ["a..b=1"], ["a b=1"], ["a=1", "a=2"], ["rootfs=[a"], ["a\x1b=1"]]
)
def test_what_is_no_assignment_is_refused(wrong: list[str]) -> None:
    with pytest.raises(fields.FieldError):
        fields.parse(wrong)


def test_merging_goes_down_and_takes_away_and_leaves_the_original() -> None:
    record = {"image": "a", "boot": {"loader": "ipxe", "parameters": "x"}}
    changes = {"boot.loader": None, "boot.style": "roram", "properties.rack": "r1", "image": None}
    assert fields.merge(record, changes) == {
        "boot": {"parameters": "x", "style": "roram"},
        "properties": {"rack": "r1"},
    }
    assert record == {"image": "a", "boot": {"loader": "ipxe", "parameters": "x"}}


def test_a_key_that_leads_through_a_value_is_refused() -> None:
    with pytest.raises(fields.FieldError, match="'image', which holds a value"):
        fields.merge({"image": "a"}, {"image.name": "b"})


def test_flatten_is_what_parse_reads() -> None:
    record = {"boot": {"parameters": "x"}, "rootfs": ["a"], "properties": {}}
    assert fields.flatten(record) == {"boot.parameters": "x", "rootfs": ["a"], "properties": {}}


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n[001-003]", ["n001", "n002", "n003"]),
        ("n[001-003]!n002", ["n001", "n003"]),
        ("n[001-002]&n[002-009]", ["n002"]),
        ("@compute", ["n001", "n002"]),
        ("@*!@compute", ["n003"]),
        ("a,b,a", ["a", "b"]),
    ],
)
def test_node_sets(text: str, nodes: list[str]) -> None:
    assert nodesets.expand(text, GROUPS) == nodes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("n[1", "missing bracket"),
        ("n[5-1]", "bad range"),
        ("@nope", "no template 'nope'"),
        ("n001!n001", "holds no node"),
        ("", "holds no node"),
        ("N001", "not a name"),
        ("n[1-99999999999999]", "more than"),
        ("r[1-10000]n[1-10000]", "more than"),
        ("n\x1b[31m", "not a"),
    ],
)
def test_what_is_no_node_set_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(nodesets.NodeSetError, match=complaint):
        nodesets.expand(text, GROUPS)


def test_folding() -> None:
    assert nodesets.fold(["n003", "n001", "n002", "x"]) == "n[001-003],x"


@given(st.text())
def test_safe_text_is_printable_and_one_line(text: str) -> None:
    assert terminal.safe(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü", "plain ü"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb", "a\\nb"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert terminal.safe(text) == shown


def test_lines_keep_tabs_and_drop_carriage_returns() -> None:
    assert terminal.safe_lines("a\tb\r\n\x1b]0;x\x07\n") == ["a\tb", "\\x1b]0;x\\x07"]
    assert terminal.safe_lines("") == []


def test_colours_take_no_room_in_a_table() -> None:
    red = click.style("up", fg="red")
    assert terminal.table(["s", "x"], [[red, "1"], ["down", "2"]]) == ["s     x", f"{red}    1", "down  2"]


def test_a_table_is_aligned_and_never_cut() -> None:
    assert terminal.table(["a", "b"], [["x", "y" * 300], ["日本", "z"]]) == ["a     b", f"x     {'y' * 300}", "日本  z"]


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (27_400_000, "27.4 MB"), (10**12, "1.0 TB")])
def test_sizes(count: int, text: str) -> None:
    assert terminal.size(count) == text


def test_data_round_trips_through_yaml() -> None:
    record = {"version": "1.10", "boot": True, "name": "ü\x1b", "list": ["a: b"]}
    text = terminal.to_yaml(record)
    assert "\x1b" not in text
    assert documents.parse_map(text) == json.loads(json.dumps(record).replace("true", '"true"'))
