"""The options of a node, as execd-config sends them: `NodeOptions`, checked by hand. Pure."""

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from shoal_execd.orders import OrdersError, sources
from shoal_model import names

_MOST_FILES = 10_000
_LARGEST_FILE = 256 << 20
_LARGEST_ANYTHING = 2**63 - 1
_ID = 2**32 - 2


class OptionsError(ValueError):
    """Options are malformed; the text names the part and what was expected."""


@dataclass(frozen=True)
class Blob:
    """Content named by its SHA-256; its size is in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class File:
    """A file to write. `content` None: fetch `blob`."""

    path: str
    mode: int
    owner: tuple[int, int]
    content: bytes | None
    blob: Blob


@dataclass(frozen=True)
class Archive:
    """A Root FS customization to unpack."""

    name: str
    blob: Blob


@dataclass(frozen=True)
class Action:
    """A step to take once the files are there."""

    verb: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """Everything that a node is to be."""

    generation: str
    files: tuple[File, ...]
    archives: tuple[Archive, ...]
    actions: tuple[Action, ...]
    sources: tuple[str, ...]


def parse_options(data: dict[str, Any], node: str) -> Options:
    """Read `NodeOptions` for `node`. Raises OptionsError."""
    if data.get("node") != node:
        raise OptionsError(f"these options are for node {data.get('node')!r}, not for {node}")
    try:
        return Options(
            generation=names.digest(data.get("generation")),  # type: ignore[arg-type]  # it refuses what is no text
            files=tuple(_file(each) for each in _list(data, "files")),
            archives=tuple(_archive(each) for each in _list(data, "archives")),
            actions=tuple(_action(each) for each in _list(data, "actions")),
            sources=sources(data),
        )
    except OrdersError as error:
        raise OptionsError(str(error)) from None
    except OptionsError:
        raise
    except ValueError as error:
        raise OptionsError(f"field generation: {error}") from None


def _list(data: dict[str, Any], field: str) -> list[dict[str, Any]]:
    value = data.get(field)
    if not isinstance(value, list) or len(value) > _MOST_FILES or not all(isinstance(each, dict) for each in value):
        raise OptionsError(f"field {field} is no list of at most {_MOST_FILES} maps")
    return value


def _file(data: dict[str, Any]) -> File:
    path, content = data.get("path"), data.get("content")
    if not isinstance(path, str) or not _is_clean(path):
        raise OptionsError(f"file {path!r}: expected an absolute path without `..`")
    file = File(
        path=path,
        mode=_whole(data, "mode", 0o7777, path, 0o644),
        owner=(_whole(data, "uid", _ID, path, 0), _whole(data, "gid", _ID, path, 0)),
        content=content,
        blob=_blob(data, path, _LARGEST_FILE),
    )
    if content is None:
        return file
    if not isinstance(content, bytes):
        raise OptionsError(f"file {path}: its content is not bytes")
    if len(content) != file.blob.size or hashlib.sha256(content).hexdigest() != file.blob.sha256:
        raise OptionsError(f"file {path}: its content does not match its digest {file.blob.sha256[:12]}")
    return file


def _is_clean(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return path.startswith("/") and len(parts) > 1 and ".." not in parts and path.isprintable() and len(path) < 4096


def _archive(data: dict[str, Any]) -> Archive:
    try:
        name = names.name(data.get("name"))  # type: ignore[arg-type]  # it refuses what is no text
    except ValueError as error:
        raise OptionsError(f"archive: {error}") from None
    stored = data.get("archive")
    if not isinstance(stored, dict):
        raise OptionsError(f"archive {name} has no digest")
    return Archive(name, _blob(stored, name, _LARGEST_ANYTHING))


def _action(data: dict[str, Any]) -> Action:
    verb, arguments = data.get("verb"), data.get("arguments", [])
    if not isinstance(verb, str) or not isinstance(arguments, list):
        raise OptionsError(f"action {verb!r} is malformed: expected a verb and a list of arguments")
    if not all(isinstance(each, str) and "\0" not in each for each in arguments):
        raise OptionsError(f"action {verb}: its arguments are not all text")
    return Action(verb, tuple(arguments))


def _blob(data: dict[str, Any], what: str, largest: int) -> Blob:
    try:
        digest = names.digest(data.get("sha256"))  # type: ignore[arg-type]  # it refuses what is no text
    except ValueError as error:
        raise OptionsError(f"{what}: {error}") from None
    return Blob(digest, _whole(data, "size", largest, what, None))


def _whole(data: dict[str, Any], field: str, most: int, what: str, default: int | None) -> int:
    value = data.get(field, default)
    if type(value) is not int or not 0 <= value <= most:
        raise OptionsError(f"{what}: {field} is {value!r}; expected a whole number from 0 to {most}")
    return value
