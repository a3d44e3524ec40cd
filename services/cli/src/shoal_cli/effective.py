"""What nodes have of their image after template, boot config and global template are laid beneath them."""

from collections.abc import Mapping
from typing import Any

from shoal_bus.api import Bus
from shoal_cli import registry
from shoal_model.records import Cluster, Kind
from shoal_model.resolve import Unresolvable, levels

Records = Mapping[str, Mapping[str, Any]]


async def images(bus: Bus, nodes: Records) -> dict[str, str]:
    """The image of each of these nodes that has one."""
    sections = {
        "templates": (await registry.records(bus, Kind.TEMPLATE)).records,
        "boot_configs": (await registry.records(bus, Kind.BOOT_CONFIG)).records,
        "global": (await registry.records(bus, Kind.GLOBAL)).records.get("default", {}),
    }
    return images_of(Cluster.model_validate({**sections, "nodes": nodes}))


def images_of(cluster: Cluster) -> dict[str, str]:
    """The image of each node that has one: the nearest level's word. Pure."""
    found: dict[str, str] = {}
    for node in cluster.nodes:
        try:
            image = next((level.image for _, level in levels(cluster, node) if level.image is not None), None)
        except Unresolvable:  # a template that went away between two of our questions
            continue
        if image is not None:
            found[node] = image
    return found
