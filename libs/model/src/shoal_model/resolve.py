"""What a node has, after host, template, boot config and global template are laid over one another.

Pure functions over records. Higher levels win; lists replace, properties merge key by key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from shoal_model.records import (
    Admission,
    BootConfig,
    BootSettings,
    BootStyle,
    Cluster,
    Global,
    ImageRelease,
    Loader,
    Network,
    Node,
    RootfsRelease,
    Settings,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """The records that decide about nodes, as one consistent view."""

    cluster: Cluster
    image_releases: Mapping[str, ImageRelease]
    rootfs_releases: Mapping[str, RootfsRelease]


@dataclass(frozen=True)
class Effective:
    """A node with every value decided. `sources` tells for each field (`boot.parameters`) where its value came from."""

    id: str
    node: Node
    name: str
    network_name: str
    network: Network
    image: str | None
    parameters: str
    loader: Loader
    style: BootStyle
    root_size: str
    tmp_size: str
    admission: Admission
    rootfs: tuple[str, ...]
    authorized_keys: tuple[str, ...]
    properties: Mapping[str, str]
    sources: Mapping[str, str]


class Unresolvable(ValueError):
    """The records do not say enough about a node; the message tells what is missing."""


def boot_network(cluster: Cluster) -> tuple[str, Network]:
    """The name and record of the cluster's boot network. Raises Unresolvable if there is none."""
    for name, network in cluster.networks.items():
        if network.boot:
            return name, network
    raise Unresolvable("the cluster has no boot network: give one of `networks` the value `boot: true`")


def effective(cluster: Cluster, node_id: str) -> Effective:
    """Decide every value of one node. Raises Unresolvable, naming the record that is missing."""
    layers = _Layers(levels(cluster, node_id))
    node = cluster.nodes[node_id]
    network_name, network = _network_of(cluster, node_id, node)
    return Effective(
        id=node_id,
        node=node,
        name=node.name or node_id,
        network_name=network_name,
        network=network,
        image=layers.first("image", None),
        parameters=layers.first("boot.parameters", ""),
        loader=layers.first("boot.loader", Loader.AUTO),
        style=layers.first("boot.style", BootStyle.RORAM),
        root_size=layers.first("boot.root_size", "50%"),
        tmp_size=layers.first("boot.tmp_size", "25%"),
        admission=layers.first("admission", Admission.ARMED),
        rootfs=tuple(layers.first("rootfs", list[str]())),
        authorized_keys=tuple(layers.first("authorized_keys", list[str]())),
        properties=layers.properties(),
        sources=layers.sources,
    )


class _Layers:
    """What the records say about a node, nearest first. `sources` remembers whose word was taken for each field."""

    def __init__(self, layers: Sequence[tuple[str, Settings | BootConfig]]) -> None:
        self.sources: dict[str, str] = {}
        self._layers = layers

    def first(self, field: str, default: T) -> T:
        """The nearest value of a field that stands in the models with the type of its default."""
        for source, settings in self._layers:
            value = _field(settings, field)
            if value is not None:
                self.sources[field] = source
                return cast("T", value)
        self.sources[field] = "default"
        return default

    def properties(self) -> dict[str, str]:
        """All properties, each with its nearest value."""
        merged: dict[str, str] = {}
        for source, settings in reversed(self._layers):
            if isinstance(settings, Settings):
                merged.update(settings.properties)
                self.sources.update({f"properties.{key}": source for key in settings.properties})
        return merged


def levels(cluster: Cluster, node_id: str) -> list[tuple[str, Settings | BootConfig]]:
    """The records that say something about a node, nearest first, each with its name as in `Effective.sources`. A boot
    config lies right below the level that names it. Raises Unresolvable, naming the record that is missing.
    """
    node = cluster.nodes.get(node_id)
    if node is None:
        raise Unresolvable(f"there is no node {node_id!r}")
    layers: list[tuple[str, Settings | BootConfig]] = []
    for source, level in _levels(cluster, node_id, node):
        layers.append((source, level))
        if level.boot.config is not None:
            layers.append(_boot_config(cluster, source, level.boot.config))
    return layers


def _network_of(cluster: Cluster, node_id: str, node: Node) -> tuple[str, Network]:
    if node.network is None:
        return boot_network(cluster)
    if node.network not in cluster.networks:
        raise Unresolvable(f"node {node_id} is in network {node.network!r}, which does not exist")
    return node.network, cluster.networks[node.network]


def _levels(cluster: Cluster, node_id: str, node: Node) -> list[tuple[str, Settings]]:
    """Host, template, global: the nearest first."""
    levels: list[tuple[str, Settings]] = [(f"host {node_id}", node)]
    if node.template is not None:
        template = cluster.templates.get(node.template)
        if template is None:
            raise Unresolvable(f"node {node_id} uses template {node.template!r}, which does not exist")
        levels.append((f"template {node.template}", template))
    globals_: Global = cluster.global_
    levels.append(("global", globals_))
    return levels


def _boot_config(cluster: Cluster, source: str, name: str) -> tuple[str, BootConfig]:
    config = cluster.boot_configs.get(name)
    if config is None:
        raise Unresolvable(f"{source} uses boot config {name!r}, which does not exist")
    return f"boot config {name}", config


def _field(settings: Settings | BootConfig, field: str) -> object:
    section, _, name = field.partition(".")
    if not name:
        return getattr(settings, section, None)
    holder = settings.boot if isinstance(settings, Settings) else settings
    assert isinstance(holder, BootSettings | BootConfig)
    return getattr(holder, name, None)
