"""`key=value` on the command line into fields of a record: dotted keys go down, an empty value takes a field away."""

from collections.abc import Iterable
from typing import Any

from shoal_cli import documents


class FieldError(ValueError):
    """An assignment that cannot be understood; the message shows how to write it."""


def parse(assignments: Iterable[str]) -> dict[str, Any]:
    """`["boot.loader=ipxe", "rootfs=[a, b]"]` → `{"boot.loader": "ipxe", "rootfs": ["a", "b"]}`.

    A value that starts with `[` or `{` is YAML, everything else is text as it stands. Raises FieldError.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not all(part.isidentifier() or part.replace("-", "").isalnum() for part in key.split(".")):
            raise FieldError(f"{assignment!r} is not FIELD=VALUE, as in boot.parameters='console=ttyS0 quiet'")
        if key in result:
            raise FieldError(f"field {key!r} is given twice")
        result[key] = _value(key, value)
    return result


def merge(record: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A record with changes laid over it; None takes a field away. Raises FieldError where a key leads through a value.

    The record itself is left as it is.
    """
    result = _copy(record)
    for key, value in changes.items():
        *path, last = key.split(".")
        place = result
        for part in path:
            below = place.setdefault(part, {})
            if not isinstance(below, dict):
                raise FieldError(f"{key!r} leads through {part!r}, which holds a value and no fields")
            place = below
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return result


def flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A record as dotted keys and values, the way `parse` reads them."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _value(key: str, text: str) -> Any:  # noqa: ANN401 - whatever the text says
    if not text:
        return None
    if text[0] not in "[{":
        return text
    try:
        return documents.parse(text)
    except documents.DocumentError as error:
        raise FieldError(f"the value of {key!r} is not YAML: {error}") from error


def _copy(value: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy(item) if isinstance(item, dict) else item for key, item in value.items()}
