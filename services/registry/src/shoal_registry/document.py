"""Documents (what `shoal apply` sends and `shoal export` gets) and single records, to and from models. Pure."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shoal_model.records import GLOBAL_NAME, RECORD_TYPES, SECTIONS, Cluster, Kind, Record, compact
from shoal_registry.problems import Problem, refuse, shown, suggestion

R = TypeVar("R", bound=BaseModel)
_SECTIONS = {*SECTIONS.values(), "global"}


def parse(document: Mapping[str, Any]) -> Cluster:
    """The configuration in a document. A section without content (`nodes:`) is an empty one.

    Raises Invalid, naming the path of everything that does not fit.
    """
    given = {key: value for key, value in document.items() if value is not None or key not in _SECTIONS}
    try:
        return Cluster.model_validate(given)
    except ValidationError as error:
        raise refuse(_problems(error, Cluster, ())) from None


def parse_record(kind: Kind, name: str, data: Mapping[str, Any]) -> Record:
    """One record from plain data. Raises Invalid as `parse` does."""
    return parse_as(RECORD_TYPES[kind], data, *prefix(kind, name))


def parse_as(model: type[R], data: Mapping[str, Any], *start: str) -> R:
    """A model from plain data that stands at the path `start`. Raises Invalid as `parse` does."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise refuse(_problems(error, model, start)) from None


def render(cluster: Cluster) -> dict[str, Any]:
    """The document of a configuration: `parse(render(cluster)) == cluster`."""
    return compact(cluster)


def prefix(kind: Kind, name: str) -> tuple[str, ...]:
    """Where a record stands in a document: `("nodes", "n001")`, or `("global",)`."""
    if kind is Kind.GLOBAL and name == GLOBAL_NAME:
        return ("global",)
    return (SECTIONS.get(kind, kind.value), name)


def path(kind: Kind, name: str, *fields: str) -> str:
    """The dotted path of a record or of one of its fields: `nodes.n001.mac`."""
    return ".".join((*prefix(kind, name), *fields))


def _problems(error: ValidationError, model: type[BaseModel], start: tuple[str, ...]) -> list[Problem]:
    details = error.errors(include_url=False)
    unnamed = {item["loc"][:-1] for item in details if item["loc"] and item["loc"][-1] == "[key]"}
    return [
        _problem(item, model, start)
        for item in details
        # What stands under a key that is no name will be looked at again once the key is mended.
        if item["loc"][-1:] == ("[key]",) or not any(item["loc"][: len(loc)] == loc for loc in unnamed)
    ]


def _problem(item: ErrorDetails, model: type[BaseModel], start: tuple[str, ...]) -> Problem:
    loc = item["loc"][:-1] if item["loc"][-1:] == ("[key]",) else item["loc"]
    where = ".".join((*start, *(shown(part)[1:-1] if isinstance(part, str) else str(part) for part in loc)))
    value, message = item.get("input"), item["msg"]
    match item["type"]:
        case "extra_forbidden":
            known = _fields_at(model, loc[:-1])
            return Problem(where, "there is no such field", suggestion(str(loc[-1]), known))
        case "missing":
            return Problem(where, "is required")
        case "value_error":
            return Problem(where, message.removeprefix("Value error, "))
        case "string_type" if isinstance(value, int | float):
            return Problem(where, f"expected text, not {shown(value)}", "put it in quotes")
        case "model_type" | "dict_type":
            return Problem(where, f"expected a map of fields, not {shown(value)}")
        case "enum":
            return Problem(where, f"expected {item['ctx']['expected']}, not {shown(value)}")
        case _:
            return Problem(where, f"{message[:1].lower()}{message[1:]}, not {shown(value)}")


def _fields_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The names of the fields of the model that stands at `loc` below `model`."""
    kind: Any = model
    for part in loc:
        holder = _model_in(kind)
        if isinstance(kind, type) and holder is not None:
            by_name = {field.alias or name: field.annotation for name, field in holder.model_fields.items()}
            kind = by_name.get(str(part))
        else:
            kind = (typing.get_args(kind) or (None,))[-1]
    found = _model_in(kind)
    return [] if found is None else [field.alias or name for name, field in found.model_fields.items()]


def _model_in(kind: Any) -> type[BaseModel] | None:  # noqa: ANN401 - an annotation may be anything
    """The model that an annotation is, or may be (`X | None`)."""
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
        return kind
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next((found for arg in typing.get_args(kind) if (found := _model_in(arg))), None)
    return None
