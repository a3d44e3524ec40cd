"""Answers that are read off the records: what a node boots, what it has, what is there. Pure."""

from collections.abc import Iterator
from typing import Any

from shoal_bus.errors import NotFound, Unavailable
from shoal_model import ports
from shoal_model.messages import (
    BootReply,
    EffectiveValue,
    OverriddenValue,
    RecordsReply,
    ShowNodeReply,
    SignedManifest,
)
from shoal_model.records import BootConfig, ImageRelease, Kind, Settings, compact
from shoal_model.resolve import Effective, Snapshot, Unresolvable, boot_network, effective, levels
from shoal_registry.inventory import section
from shoal_registry.problems import suggestion


def boot(snapshot: Snapshot, node_id: str, *, tls: bool) -> BootReply:
    """What a node is to boot now; `tls`: the head serves images over HTTPS.

    Raises NotFound or Unavailable, saying what is missing and how it comes to be."""
    node = _effective(snapshot, node_id)
    if node.image is None:
        advice = "give it one: on the node, its template, its boot config or globally"
        raise NotFound(f"node {node_id} has no image; {advice}")
    release = snapshot.image_releases.get(node.image)
    if release is None:
        raise Unavailable(f"image {node.image} has no build yet: run `shoal image build {node.image}`")
    head = boot_network(snapshot.cluster)[1].head
    return BootReply(
        node=node_id,
        name=node.name,
        manifest=_signed(release),
        style=node.style,
        root_size=node.root_size,
        tmp_size=node.tmp_size,
        sources=[f"{'https' if tls else 'http'}://{head}:{ports.IMAGE_HTTP}", f"http://{head}:{ports.BOOT_HTTP}"],
    )


def show(snapshot: Snapshot, node_id: str) -> ShowNodeReply:
    """Every value of a node, where it came from, and what it hides. Raises NotFound."""
    node = _effective(snapshot, node_id)
    below = list(levels(snapshot.cluster, node_id))
    values = [*_identity(node), *(_decided(node, below, field, value) for field, value in _fields(node))]
    return ShowNodeReply(node=node_id, values=values)


def records(snapshot: Snapshot, kind: Kind, name: str | None, revision: int) -> RecordsReply:
    """The records of a kind, or one of them as `{name: record}`. Raises NotFound."""
    found = section(snapshot, kind)
    if name is not None:
        if name not in found:
            hint = suggestion(name, found)
            raise NotFound(f"there is no {kind} {name!r}" + (f"; {hint}" if hint else ""))
        found = {name: found[name]}
    return RecordsReply(records={key: compact(record) for key, record in found.items()}, revision=revision)


def _signed(release: ImageRelease) -> SignedManifest:
    body, by = release.manifest.body(), release.signature
    if by is None:
        return SignedManifest(body=body)
    return SignedManifest(body=body, key=by.key, signature=bytes.fromhex(by.value))


def _effective(snapshot: Snapshot, node_id: str) -> Effective:
    nodes = snapshot.cluster.nodes
    if node_id not in nodes:
        hint = suggestion(node_id, nodes)
        raise NotFound(f"there is no node {node_id!r}" + (f"; {hint}" if hint else ""))
    try:
        return effective(snapshot.cluster, node_id)
    except Unresolvable as error:
        raise NotFound(str(error)) from error


def _identity(node: Effective) -> Iterator[EffectiveValue]:
    host = f"host {node.id}"
    yield EffectiveValue(field="name", value=node.name, source=host if node.node.name else "id")
    yield EffectiveValue(field="mac", value=node.node.mac, source=host)
    yield EffectiveValue(field="address", value=node.node.address, source=host)
    yield EffectiveValue(field="network", value=node.network_name, source=host if node.node.network else "boot network")
    for index, nic in enumerate(node.node.nics):
        yield EffectiveValue(field=f"nics.{index}", value=compact(nic), source=host)
    if node.node.template is not None:
        yield EffectiveValue(field="template", value=node.node.template, source=host)


def _fields(node: Effective) -> Iterator[tuple[str, Any]]:
    yield "image", node.image
    yield "boot.parameters", node.parameters
    yield "boot.loader", node.loader.value
    yield "boot.style", node.style.value
    yield "boot.root_size", node.root_size
    yield "boot.tmp_size", node.tmp_size
    yield "admission", node.admission.value
    yield "rootfs", list(node.rootfs)
    yield "authorized_keys", list(node.authorized_keys)
    for key, value in sorted(node.properties.items()):
        yield f"properties.{key}", value


def _decided(
    node: Effective, below: list[tuple[str, Settings | BootConfig]], field: str, value: object
) -> EffectiveValue:
    source = node.sources[field]
    said = [(level, found) for level, settings in below if (found := _said(settings, field)) is not None]
    hidden = [OverriddenValue(value=found, source=level) for level, found in said if level != source]
    return EffectiveValue(field=field, value=value, source=source, overridden=hidden)


def _said(settings: Settings | BootConfig, field: str) -> object:
    """What one level says of a field, as plain data; None if nothing."""
    found: object = compact(settings)
    parts = field.split(".")
    if isinstance(settings, BootConfig) and parts[0] == "boot":
        parts = parts[1:]
    for part in parts:
        found = found.get(part) if isinstance(found, dict) else None
    return found
