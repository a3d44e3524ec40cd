"""The contract between releases: what is in docs/schemas stays valid."""

import copy
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal_model.schemas import breaking, models, schemas

ROOT = Path(__file__).resolve().parents[2]
differences: Callable[[], list[str]] = runpy.run_path(str(ROOT / "scripts/schemas.py"))["differences"]


def test_nothing_breaks_a_peer_of_the_release_before() -> None:
    assert differences() == []


def test_every_message_has_its_schema() -> None:
    written = {path.stem for path in (ROOT / "docs/schemas").glob("*.json")}
    assert written <= set(models())
    assert {"ChangeRequest", "BootEvent", "NodeOptions", "Cluster", "Node"} <= written


OLD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "node": {"type": "string", "maxLength": 63},
        "count": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "state": {"$ref": "#/$defs/State"},
        "lines": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["node"],
    "$defs": {"State": {"enum": ["up", "lost"], "type": "string"}},
}


def edited(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    new = copy.deepcopy(OLD)
    change(new)
    return new


ADDITIVE: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("nothing", lambda new: None),
    ("an optional field", lambda new: new["properties"].update(extra={"type": "string"})),
    ("a description", lambda new: new["properties"]["node"].update(description="which")),
    ("a longer text", lambda new: new["properties"]["node"].update(maxLength=100)),
    ("no limit", lambda new: new["properties"]["node"].pop("maxLength")),
    ("one more value", lambda new: new["$defs"]["State"]["enum"].append("failed")),
    ("one more type", lambda new: new["properties"]["count"]["anyOf"].append({"type": "string"})),
    ("required no more", lambda new: new["required"].clear()),
]

BREAKING: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("node: is gone", lambda new: new["properties"].pop("node")),
    ("extra: is required now", lambda new: (new["properties"].update(extra={}), new["required"].append("extra"))),
    ("state: is required now", lambda new: new["required"].append("state")),
    ("node: type was 'string', is 'integer'", lambda new: new["properties"]["node"].update(type="integer")),
    ("node: maxLength was 63, is 10", lambda new: new["properties"]["node"].update(maxLength=10)),
    ("node: minLength was None, is 1", lambda new: new["properties"]["node"].update(minLength=1)),
    ("node: pattern was None", lambda new: new["properties"]["node"].update(pattern="x")),
    ("State: 'lost' is no longer allowed", lambda new: new["$defs"]["State"]["enum"].remove("lost")),
    ("node: only ['a'] is allowed now", lambda new: new["properties"]["node"].update(enum=["a"])),
    ("count: null is no longer possible", lambda new: new["properties"]["count"]["anyOf"].pop()),
    ("count: integer is no longer possible", lambda new: new["properties"]["count"]["anyOf"].pop(0)),
    ("state: $ref was '#/$defs/State'", lambda new: new["properties"]["state"].update({"$ref": "#/$defs/Other"})),
    ("lines[]: type was 'string'", lambda new: new["properties"]["lines"]["items"].update(type="integer")),
    ("lines: items was", lambda new: new["properties"]["lines"].pop("items")),
    ("map[]: type was 'string'", lambda new: new["properties"]["map"]["additionalProperties"].update(type="null")),
]


@pytest.mark.parametrize("change", [case[1] for case in ADDITIVE], ids=[case[0] for case in ADDITIVE])
def test_what_adds_passes(change: Callable[[dict[str, Any]], object]) -> None:
    assert breaking(OLD, edited(change)) == []


@pytest.mark.parametrize(("message", "change"), BREAKING, ids=[case[0] for case in BREAKING])
def test_what_breaks_is_named(message: str, change: Callable[[dict[str, Any]], object]) -> None:
    found = breaking(OLD, edited(change))
    assert any(line.startswith(message) for line in found), found


@pytest.mark.parametrize("name", sorted(models()))
def test_a_real_schema_differs_from_itself_in_nothing_and_misses_any_field_taken_away(name: str) -> None:
    schema = schemas()[name]
    assert breaking(json.loads(json.dumps(schema)), schema) == []
    for field in schema.get("properties", {}):
        less = copy.deepcopy(schema)
        del less["properties"][field]
        assert f"{field}: is gone" in breaking(schema, less)
