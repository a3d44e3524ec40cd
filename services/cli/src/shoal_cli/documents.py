"""Configuration as YAML: scalars stay text as it was written, and the record's field decides what they mean.

YAML 1.1 would turn `version: 1.10` into 1.1 and an unquoted `52:54:00:12:34:56` into a number; here they do not.
"""

from collections.abc import Hashable
from typing import Any

import yaml

_MAX_DEPTH = 40


class DocumentError(ValueError):
    """The text is no configuration; the message says where and why."""


class _Loader(yaml.CSafeLoader):
    """Text, lists, maps and null alone: no other implicit types, no key twice."""

    # A copy without the implicit resolvers but null's; keyed by first character, as PyYAML does.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own shape
        first: [(tag, pattern) for tag, pattern in entries if tag == "tag:yaml.org,2002:null"]
        for first, entries in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


def _map(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
    result: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise DocumentError(f"line {key_node.start_mark.line + 1}: a field's name must be plain text")
        if key_node.value in result:
            raise DocumentError(f"line {key_node.start_mark.line + 1}: {key_node.value!r} stands here twice")
        result[key_node.value] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor("tag:yaml.org,2002:map", _map)


def parse(text: str) -> Any:  # noqa: ANN401 - whatever the text says
    """Text, list, map or None from YAML. Raises DocumentError with the line that is wrong."""
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise DocumentError(f"{where}{error.problem or error.context or 'this is not YAML'}") from error
    except yaml.YAMLError as error:
        raise DocumentError(" ".join(str(error).split())) from error


def parse_map(text: str) -> dict[str, Any]:
    """A map from YAML. Raises DocumentError; also for an empty text, which is no map: `{}` would be one."""
    data = parse(text)
    if data is None:
        raise DocumentError("the document is empty; {} says that no records are meant")
    if not isinstance(data, dict):
        raise DocumentError(f"expected sections such as `nodes:`, found {_kind(data)}")
    return data


def _kind(data: object) -> str:
    return "a list" if isinstance(data, list) else "plain text"


def _check_events(text: str) -> None:
    """Bound nesting, and refuse aliases and tags, before anything recursive sees the text."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        where = f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError(f"{where}: aliases (*{event.anchor}) are not allowed here: write the value out")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            raise DocumentError(f"{where}: tags ({event.tag}) are not allowed here: write the value alone")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise DocumentError(f"{where}: nested more than {_MAX_DEPTH} deep")
