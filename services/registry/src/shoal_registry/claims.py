"""The claims: keys by which a MAC, an address and a host name belong to one node alone. Pure."""

from shoal_bus.codec import pack
from shoal_model.names import mac_key
from shoal_model.records import Node


def of(node_id: str, node: Node) -> list[str]:
    """The keys that a node holds: `claim.mac.<hex>`, `claim.ip.<a-b-c-d>`, `claim.name.<host name>`."""
    return [
        *(f"claim.mac.{mac_key(mac)}" for mac in (node.mac, *(nic.mac for nic in node.nics))),
        *(f"claim.ip.{ip.replace('.', '-')}" for ip in (node.address, *(nic.address for nic in node.nics))),
        f"claim.name.{node.name or node_id}",
    ]


def value(node_id: str) -> bytes:
    """What stands under a claim."""
    return pack({"node": node_id})
