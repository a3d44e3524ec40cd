"""What the registry tells a node to boot: `BootReply`, checked by hand. Pure."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from shoal_identity import signatures
from shoal_mcast.geometry import Geometry
from shoal_model import names

_SIZE = re.compile(r"[1-9][0-9]*(?:[kmg]|%)?")
_SOURCE = re.compile(r"https?://[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]{0,200})?")
_STYLES = ("roram",)
_LARGEST = 64 << 30


class OrdersError(ValueError):
    """The head's answer cannot be carried out; the text names the field and what was expected."""


@dataclass(frozen=True)
class Manifest:
    """The part of an image manifest that a node needs: the squashfs, how it is cut, and the hash of each block."""

    image: str
    sha256: str
    geometry: Geometry
    blocks: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the squashfs."""
        return self.geometry.size


@dataclass(frozen=True)
class Orders:
    """What to boot, how, and where from."""

    manifest: Manifest
    root_size: str
    tmp_size: str
    sources: tuple[str, ...]


def parse_orders(reply: dict[str, Any], image_keys: Collection[str] | None = None) -> Orders:
    """Read a `BootReply`. Raises OrdersError, also if none of `image_keys` has signed its manifest; where they are
    None, nobody needs to.
    """
    style = _text(reply, "style")
    if style not in _STYLES:
        raise OrdersError(f"boot style {style!r} is unknown to this execd; it knows {', '.join(_STYLES)}")
    return Orders(
        manifest=parse_manifest(signed(_map(reply, "manifest"), image_keys)),
        root_size=_tmpfs(reply, "root_size"),
        tmp_size=_tmpfs(reply, "tmp_size"),
        sources=sources(reply),
    )


def signed(manifest: dict[str, Any], image_keys: Collection[str] | None) -> dict[str, Any]:
    """The `ImageManifest` in a `SignedManifest`, read only if one of these keys has signed it. Raises OrdersError."""
    body, signature, key = manifest.get("body"), manifest.get("signature", b""), manifest.get("key", "")
    if not isinstance(body, bytes) or not isinstance(signature, bytes) or not isinstance(key, str):
        raise OrdersError("field manifest holds no body, key and signature")
    if image_keys is not None:
        try:
            signatures.check(body, key, signature, image_keys)
        except signatures.Unsigned as error:
            raise OrdersError(f"the image is not signed by an image key of this cluster: {error}") from None
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise OrdersError(f"field manifest.body is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise OrdersError("field manifest.body is no map")
    return data


def parse_manifest(data: dict[str, Any]) -> Manifest:
    """Read an `ImageManifest`. Raises OrdersError if it contradicts itself."""
    squashfs, blocks = _map(data, "squashfs"), data.get("blocks")
    if not isinstance(blocks, list):
        raise OrdersError("field blocks is no list of hashes")
    manifest = Manifest(
        image=_text(data, "image"),
        sha256=_digest(squashfs.get("sha256"), "squashfs.sha256"),
        geometry=_geometry(_map(data, "geometry"), _whole(squashfs, "size", _LARGEST)),
        blocks=tuple(_digest(block, "blocks") for block in blocks),
    )
    if len(manifest.blocks) != manifest.geometry.blocks:
        raise OrdersError(
            f"the manifest of image {manifest.image} lists {len(manifest.blocks)} blocks; "
            f"its size makes {manifest.geometry.blocks}"
        )
    return manifest


def _geometry(data: dict[str, Any], size: int) -> Geometry:
    try:
        return Geometry(size, _whole(data, "symbol_size", 65_000), _whole(data, "block_symbols", 65_535))
    except OrdersError:
        raise
    except ValueError as error:
        raise OrdersError(f"field geometry: {error}") from None


def sources(data: dict[str, Any]) -> tuple[str, ...]:
    """The base URLs in `sources`, without a slash at the end. Raises OrdersError if there is none."""
    urls = data.get("sources")
    if not isinstance(urls, list) or not urls:
        raise OrdersError("the head named no source to fetch from (field sources)")
    for url in urls:
        if not isinstance(url, str) or not _SOURCE.fullmatch(url):
            raise OrdersError(f"source {url!r} is not of the form https://<host>[:<port>]")
    return tuple(url.rstrip("/") for url in urls)


def _text(data: dict[str, Any], field: str) -> str:
    value = data.get(field)
    if not isinstance(value, str):
        raise OrdersError(f"field {field} is {value!r}; expected text")
    return value


def _map(data: dict[str, Any], field: str) -> dict[str, Any]:
    value = data.get(field)
    if not isinstance(value, dict):
        raise OrdersError(f"field {field} is missing or no map")
    return value


def _whole(data: dict[str, Any], field: str, most: int) -> int:
    value = data.get(field)
    if type(value) is not int or not 1 <= value <= most:
        raise OrdersError(f"field {field} is {value!r}; expected a whole number from 1 to {most}")
    return value


def _digest(value: object, field: str) -> str:
    try:
        return names.digest(value)  # type: ignore[arg-type]  # digest() refuses what is no text
    except ValueError as error:
        raise OrdersError(f"field {field}: {error}") from None


def _tmpfs(data: dict[str, Any], field: str) -> str:
    value = _text(data, field)
    if not _SIZE.fullmatch(value):
        raise OrdersError(f"field {field} is {value!r}; expected a tmpfs size such as 50% or 2g")
    return value
