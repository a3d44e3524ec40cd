"""JSON Schemas of all messages and records, and what tells a breaking difference from an additive one. Pure.

Both ends of a message may be of different releases: fields are only ever added, and optional, and what was valid stays
valid.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from shoal_model import messages
from shoal_model.records import RECORD_TYPES, Cluster

Schema = Mapping[str, Any]

_AT_MOST = ("maxLength", "maxItems", "maximum", "exclusiveMaximum", "maxProperties")
_AT_LEAST = ("minLength", "minItems", "minimum", "exclusiveMinimum", "minProperties")


def models() -> dict[str, type[BaseModel]]:
    """Every message, every record and the document, by name."""
    found: list[type[BaseModel]] = [*RECORD_TYPES.values(), Cluster]
    found += [
        value for value in vars(messages).values() if inspect.isclass(value) and issubclass(value, messages.Message)
    ]
    return {model.__name__: model for model in found}


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema (2020-12) of each of them, by name."""
    return {name: model.model_json_schema() for name, model in sorted(models().items())}


def breaking(old: Schema, new: Schema) -> list[str]:
    """What a peer that knows the old schema could not live with in the new one; empty if it only adds."""
    found = list(_differences(old, new, ""))
    definitions = new.get("$defs", {})
    for name, definition in old.get("$defs", {}).items():
        if name in definitions:  # one that is gone shows where it was used
            found += _differences(definition, definitions[name], name)
    return found


def _differences(old: Schema, new: Schema, where: str) -> Iterator[str]:
    label = where or "message"
    for word in ("type", "$ref", "pattern", "const", "format"):
        if old.get(word) != new.get(word):
            yield f"{label}: {word} was {old.get(word)!r}, is {new.get(word)!r}"
    yield from _bounds(old, new, label)
    gone = [value for value in old.get("enum", ()) if "enum" in new and value not in new["enum"]]
    yield from (f"{label}: {value!r} is no longer allowed" for value in gone)
    if "enum" in new and "enum" not in old:
        yield f"{label}: only {new['enum']} is allowed now"
    yield from _properties(old, new, where)
    yield from _options(old, new, label)
    for word in ("items", "additionalProperties"):
        inner, now = old.get(word), new.get(word)
        if isinstance(inner, Mapping) and isinstance(now, Mapping):
            yield from _differences(inner, now, f"{where}[]")
        elif isinstance(inner, Mapping) != isinstance(now, Mapping):
            yield f"{label}: {word} was {inner!r}, is {now!r}"


def _bounds(old: Schema, new: Schema, label: str) -> Iterator[str]:
    for word in (*_AT_MOST, *_AT_LEAST):
        was, now = old.get(word), new.get(word)
        if now is not None and (was is None or (now < was if word in _AT_MOST else now > was)):
            yield f"{label}: {word} was {was}, is {now}"


def _properties(old: Schema, new: Schema, where: str) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name, property_ in before.items():
        path = f"{where}.{name}" if where else name
        if name not in after:
            yield f"{path}: is gone"
        else:
            yield from _differences(property_, after[name], path)
    for name in set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{where}.{name}: is required now" if where else f"{name}: is required now"


def _options(old: Schema, new: Schema, label: str) -> Iterator[str]:
    """Of several options each must live on in one that it does not contradict; there may be new ones."""
    now = new.get("anyOf", [new] if "anyOf" in old else [])
    for option in old.get("anyOf", ()):
        if not any(not list(_differences(option, other, label)) for other in now):
            yield f"{label}: {option.get('type', option.get('$ref'))} is no longer possible as it was"
