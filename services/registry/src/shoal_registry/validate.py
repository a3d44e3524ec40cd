"""Whether a whole configuration fits together. Each record by itself has been checked by its model. Pure."""

import ipaddress
import socket
from collections.abc import Collection, Iterator
from typing import NamedTuple

from shoal_model.records import GLOBAL_NAME, BootConfig, Cluster, Kind, Network, Node, Settings
from shoal_registry.document import path
from shoal_registry.inventory import Key
from shoal_registry.problems import Problem, suggestion

_USERS = 5
_NOUN = {
    Kind.IMAGE: "image",
    Kind.BOOT_CONFIG: "boot config",
    Kind.PROPERTY: "property",
    Kind.ROOTFS: "Root FS customization",
    Kind.TEMPLATE: "template",
    Kind.NETWORK: "network",
}


def problems(cluster: Cluster, removed: Collection[Key] = ()) -> list[Problem]:
    """Everything that is wrong, most telling first. `removed` are the records that the change took away: what still
    uses one of them is told at the record removed.
    """
    return [
        *_dangling(cluster, frozenset(removed)),
        *_networks(cluster),
        *_values(cluster),
        *_hardware_addresses(cluster),
        *_addresses(cluster),
        *_host_names(cluster),
    ]


# --- references -------------------------------------------------------------------------------------------


class _Reference(NamedTuple):
    kind: Kind
    target: str
    path: str


def _dangling(cluster: Cluster, removed: frozenset[Key]) -> Iterator[Problem]:
    users: dict[Key, list[str]] = {}
    unknown: list[_Reference] = []
    for reference in _unresolved(cluster):
        if (reference.kind, reference.target) in removed:
            users.setdefault((reference.kind, reference.target), []).append(reference.path)
        else:
            unknown.append(reference)
    for (kind, name), paths in users.items():
        more = f" and {len(paths) - _USERS} more" if len(paths) > _USERS else ""
        what = f"cannot be removed: used by {', '.join(paths[:_USERS])}{more}"
        yield Problem(path(kind, name), what, "change them first, or in the same step")
    for kind, target, where in unknown:
        yield Problem(where, f"there is no {_NOUN[kind]} {target!r}", suggestion(target, _names(cluster, kind)))


def _names(cluster: Cluster, kind: Kind) -> Collection[str]:
    match kind:
        case Kind.IMAGE:
            return cluster.images
        case Kind.BOOT_CONFIG:
            return cluster.boot_configs
        case Kind.PROPERTY:
            return cluster.properties
        case Kind.ROOTFS:
            return cluster.rootfs
        case Kind.TEMPLATE:
            return cluster.templates
        case Kind.NETWORK:
            return cluster.networks
        case _:
            raise ValueError(f"nothing refers to a record of kind {kind}")


def _holders(cluster: Cluster) -> Iterator[tuple[Kind, str, Settings]]:
    yield Kind.GLOBAL, GLOBAL_NAME, cluster.global_
    for name, template in cluster.templates.items():
        yield Kind.TEMPLATE, name, template
    for name, node in cluster.nodes.items():
        yield Kind.NODE, name, node


def _unresolved(cluster: Cluster) -> Iterator[_Reference]:
    for kind, name, settings in _holders(cluster):
        yield from _unresolved_settings(cluster, kind, name, settings)
    for name, config in cluster.boot_configs.items():
        yield from _unresolved_image(cluster, Kind.BOOT_CONFIG, name, config)
    for name, node in cluster.nodes.items():
        if node.template is not None and node.template not in cluster.templates:
            yield _Reference(Kind.TEMPLATE, node.template, path(Kind.NODE, name, "template"))
        if node.network is not None and node.network not in cluster.networks:
            yield _Reference(Kind.NETWORK, node.network, path(Kind.NODE, name, "network"))
        for index, nic in enumerate(node.nics):
            if nic.network not in cluster.networks:
                yield _Reference(Kind.NETWORK, nic.network, path(Kind.NODE, name, "nics", str(index), "network"))


def _unresolved_image(cluster: Cluster, kind: Kind, name: str, settings: Settings | BootConfig) -> Iterator[_Reference]:
    if settings.image is not None and settings.image not in cluster.images:
        yield _Reference(Kind.IMAGE, settings.image, path(kind, name, "image"))


def _unresolved_settings(cluster: Cluster, kind: Kind, name: str, settings: Settings) -> Iterator[_Reference]:
    yield from _unresolved_image(cluster, kind, name, settings)
    config = settings.boot.config
    if config is not None and config not in cluster.boot_configs:
        yield _Reference(Kind.BOOT_CONFIG, config, path(kind, name, "boot", "config"))
    for index, tree in enumerate(settings.rootfs or ()):
        if tree not in cluster.rootfs:
            yield _Reference(Kind.ROOTFS, tree, path(kind, name, "rootfs", str(index)))
    for key in settings.properties:
        if key not in cluster.properties:
            yield _Reference(Kind.PROPERTY, key, path(kind, name, "properties", key))


def _values(cluster: Cluster) -> Iterator[Problem]:
    for kind, name, settings in _holders(cluster):
        for key, value in settings.properties.items():
            definition = cluster.properties.get(key)
            if definition is not None and definition.values is not None and value not in definition.values:
                where = path(kind, name, "properties", key)
                yield Problem(where, f"{value!r} is no value of property {key}", suggestion(value, definition.values))
        trees = settings.rootfs or []
        for index, tree in enumerate(trees):
            if tree in trees[:index]:
                yield Problem(path(kind, name, "rootfs", str(index)), f"{tree!r} is named twice", "keep one of them")
    for name, image in cluster.images.items():
        if image.chroot is not None:
            where = path(Kind.IMAGE, name, "chroot")
            yield Problem(where, f"there is no chroot {image.chroot!r}", "leave `chroot` out")


# --- networks and addresses -------------------------------------------------------------------------------


def _networks(cluster: Cluster) -> Iterator[Problem]:
    boot = [name for name, network in cluster.networks.items() if network.boot]
    if cluster.nodes and not boot:
        yield Problem("networks", "none of them is the boot network", "give the one that nodes boot in `boot: true`")
    for name in boot[1:]:
        where = path(Kind.NETWORK, name, "boot")
        yield Problem(where, f"{boot[0]} is the boot network already", "leave `boot: true` on one of them")
    ranges = sorted((ipaddress.IPv4Network(network.cidr), name) for name, network in cluster.networks.items())
    widest = 0  # the network seen so far that reaches furthest: whatever starts inside it overlaps
    for index, (network, name) in enumerate(ranges[1:], 1):
        other, other_name = ranges[widest]
        if network.network_address <= other.broadcast_address:
            where = path(Kind.NETWORK, name, "cidr")
            yield Problem(
                where, f"{network} overlaps with {other} of network {other_name}", "networks must not overlap"
            )
        if network.broadcast_address > other.broadcast_address:
            widest = index


# Each of the following looks at every node at every change: paths are made for those that are told of alone.

_Place = tuple[Kind, str, tuple[str, ...]]


def _addresses(cluster: Cluster) -> Iterator[Problem]:
    taken: dict[str, _Place] = {}
    for name, network in cluster.networks.items():
        for field in ("gateway", "head"):
            if (address := getattr(network, field)) is not None:
                taken[address] = (Kind.NETWORK, name, (field,))
    ranges = {name: _Range.of(network) for name, network in cluster.networks.items()}
    boot = next((name for name, network in cluster.networks.items() if network.boot), None)
    for name, node in cluster.nodes.items():
        for place, address, network_name in _interfaces(name, node, boot):
            if (first := taken.setdefault(address, place)) is not place:
                yield Problem(_path(place), f"{address} is taken by {_path(first)}", "give it a free address")
            inside = ranges.get(network_name or "")
            if inside is not None and not inside.holds(address):
                cidr = cluster.networks[network_name or ""].cidr
                what = f"{address} is no host address of {cidr} (network {network_name})"
                yield Problem(
                    _path(place), what, "take one between its network and broadcast address, or name its network"
                )


def _interfaces(name: str, node: Node, boot: str | None) -> Iterator[tuple[_Place, str, str | None]]:
    """Place, address and network name of each interface of a node."""
    yield (Kind.NODE, name, ("address",)), node.address, node.network or boot
    for index, nic in enumerate(node.nics):
        yield (Kind.NODE, name, ("nics", str(index), "address")), nic.address, nic.network


def _path(place: _Place) -> str:
    return path(place[0], place[1], *place[2])


class _Range(NamedTuple):
    """The host addresses of a network in network byte order: `usable` of the model for ten thousand addresses."""

    first: bytes
    last: bytes

    @classmethod
    def of(cls, network: Network) -> "_Range":
        cidr = ipaddress.IPv4Network(network.cidr)
        edge = 0 if cidr.prefixlen >= 31 else 1
        return cls((cidr.network_address + edge).packed, (cidr.broadcast_address - edge).packed)

    def holds(self, address: str) -> bool:
        return self.first <= socket.inet_aton(address) <= self.last


def _hardware_addresses(cluster: Cluster) -> Iterator[Problem]:
    taken: dict[str, _Place] = {}
    for name, node in cluster.nodes.items():
        place: _Place = (Kind.NODE, name, ("mac",))
        if (first := taken.setdefault(node.mac, place)) is not place:
            yield _claimed(node.mac, place, first)
        for index, nic in enumerate(node.nics):
            place = (Kind.NODE, name, ("nics", str(index), "mac"))
            if (first := taken.setdefault(nic.mac, place)) is not place:
                yield _claimed(nic.mac, place, first)


def _host_names(cluster: Cluster) -> Iterator[Problem]:
    taken: dict[str, _Place] = {}
    for name, node in cluster.nodes.items():
        place: _Place = (Kind.NODE, name, () if node.name is None else ("name",))
        if (first := taken.setdefault(node.name or name, place)) is not place:
            yield _claimed(node.name or name, place, first)


def _claimed(value: str, place: _Place, first: _Place) -> Problem:
    return Problem(_path(place), f"{value} is taken by {_path(first)}", "each may be given once in the cluster")
