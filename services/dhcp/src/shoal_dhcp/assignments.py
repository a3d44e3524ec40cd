"""What the records assign to a hardware address: its address, its network, and how its node boots. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from shoal_dhcp4 import Option
from shoal_model import resolve
from shoal_model.records import Cluster, Loader, Network


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that an answer to one hardware address needs, decided.

    `head` is where this head is reached from there, and our server identifier. `parameters` are the options that tell
    of network and host. `boots` is false for an interface beside the one that the node boots from. `local` says that
    the network is the boot network: a request comes straight, not through a relay.
    """

    node: str
    mac: str
    address: IPv4Address
    network: IPv4Network
    head: IPv4Address
    parameters: Mapping[int, bytes]
    loader: Loader
    boots: bool
    local: bool


def assignment(cluster: Cluster, node_id: str, mac: str) -> Assignment:
    """What `mac`, one of the node's hardware addresses in canonical form, is assigned.

    Raises Unresolvable if the records do not say enough, naming what is missing.
    """
    boot_name, boot_network = resolve.boot_network(cluster)
    node = resolve.effective(cluster, node_id)
    boots = node.node.mac == mac
    if boots:
        address, name, network = node.node.address, node.network_name, node.network
    else:
        address, name, network = _further_interface(cluster, node, mac)
    head = network.head or boot_network.head
    assert head is not None  # the model refuses a boot network without it
    return Assignment(
        node=node_id,
        mac=mac,
        address=IPv4Address(address),
        network=IPv4Network(network.cidr),
        head=IPv4Address(head),
        parameters=_parameters(network, node.name, routed=boots),
        loader=node.loader,
        boots=boots,
        local=name == boot_name,
    )


def _parameters(network: Network, host_name: str, *, routed: bool) -> dict[int, bytes]:
    """The options of RFC 2132, the ones that a client can do without last. Without `routed` there is no default route:
    it would compete with that of the boot interface.
    """
    net = IPv4Network(network.cidr)
    parameters: dict[int, bytes] = {Option.SUBNET_MASK: net.netmask.packed}
    if routed and network.gateway is not None:
        parameters[Option.ROUTER] = IPv4Address(network.gateway).packed
    if network.nameservers:
        parameters[Option.DOMAIN_NAME_SERVER] = b"".join(IPv4Address(server).packed for server in network.nameservers)
    parameters[Option.HOST_NAME] = host_name.encode()
    if network.domain:
        parameters[Option.DOMAIN_NAME] = network.domain.encode()
    parameters[Option.BROADCAST_ADDRESS] = net.broadcast_address.packed
    return parameters


def _further_interface(cluster: Cluster, node: resolve.Effective, mac: str) -> tuple[str, str, Network]:
    for nic in node.node.nics:
        if nic.mac == mac:
            network = cluster.networks.get(nic.network)
            if network is None:
                raise resolve.Unresolvable(f"node {node.id} has {mac} in network {nic.network!r}, which does not exist")
            return nic.address, nic.network, network
    raise resolve.Unresolvable(f"node {node.id} has no interface {mac}")
