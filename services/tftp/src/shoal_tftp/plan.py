"""What a node is to boot, decided from the records. Pure."""

import ipaddress
from dataclasses import dataclass
from datetime import datetime

from shoal_model import names, ports
from shoal_model.records import BootSettings, ImageManifest, Node
from shoal_model.resolve import Effective, Snapshot, Unresolvable, boot_network, effective
from shoal_tftp.proof import Issuer

COMMAND_LINE_LIMIT = 2047
"""Bytes of a kernel command line on x86 (COMMAND_LINE_SIZE, less its NUL); what is longer is cut without a word."""
_LOADER_SHARE = 192
"""Bytes of the command line that loaders add: BOOT_IMAGE= and initrd= with the paths of both."""
_ETHERNET_OCTETS = 6


@dataclass(frozen=True)
class Plan:
    """A node that can boot: its image, and its kernel command line but for what differs from boot to boot.

    With an `issuer` each boot can be proven, and the bus is reached over TLS.
    """

    node: str
    record: Node
    name: str
    image: str
    manifest: ImageManifest
    head: str
    network: str
    parameters: str
    issuer: Issuer | None

    def command_line(self, boot: str, at: datetime) -> str:
        """The kernel command line for one boot, begun at `at`. The node goes by the first of two equal parameters: ours
        stand before the operator's.
        """
        issuer = self.issuer
        words = (
            f"shoal.nats={'nats' if issuer is None else 'tls'}://{self.head}:{ports.NATS}",
            f"shoal.node={self.node}",
            f"shoal.boot={boot}",
            f"shoal.time={int(at.timestamp())}",
            *(() if issuer is None else issuer.words(self.node, self.record, boot, at)),
            self.network,
            self.parameters,
        )
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Refusal:
    """A machine that cannot boot now: `reason` tells an operator what to do. `node` None: nobody knows the machine."""

    node: str | None
    reason: str


def has_own_config(node: Node) -> bool:
    """Whether a node has a boot configuration of its own, and so a script under its Hostid."""
    return node.boot != BootSettings() or node.image is not None


def decide(snapshot: Snapshot, node_id: str, issuer: Issuer | None = None) -> Plan | Refusal:
    """What this node boots, or why it cannot. With an issuer, it can prove its boot."""
    try:
        decided = effective(snapshot.cluster, node_id)
        head = decided.network.head or boot_network(snapshot.cluster)[1].head
    except Unresolvable as error:
        return Refusal(node_id, str(error))
    if head is None:
        return Refusal(node_id, f"network {decided.network_name} has no `head`: set the address of this head in it")
    if decided.image is None:
        return Refusal(node_id, f"node {node_id} has no image: set one on the node, its template or globally")
    if decided.image not in snapshot.cluster.images:
        return Refusal(node_id, f"node {node_id} uses image {decided.image!r}, which does not exist")
    release = snapshot.image_releases.get(decided.image)
    if release is None:
        return Refusal(
            node_id,
            f"image {decided.image} has no release yet: its build runs, waits or failed; "
            f"follow it with `shoal image build {decided.image} --wait`",
        )
    plan = Plan(
        node=node_id,
        record=decided.node,
        name=decided.name,
        image=decided.image,
        manifest=release.manifest,
        head=head,
        network=_network_words(decided),
        parameters=decided.parameters.strip(),
        issuer=issuer,
    )
    length = len(plan.command_line("0" * 16, datetime.fromtimestamp(10**9)).encode()) + _LOADER_SHARE
    if length > COMMAND_LINE_LIMIT:
        return Refusal(
            node_id,
            f"the kernel command line of node {node_id} takes {length} bytes, the kernel {COMMAND_LINE_LIMIT}: "
            f"shorten its boot parameters (from {decided.sources['boot.parameters']})",
        )
    return plan


def unprovable(plan: Plan, address: str) -> str | None:
    """Why who asks from this address gets no token for this boot; None: it does, or none is needed."""
    record = plan.record
    if plan.issuer is None or address == record.address:
        return None
    return (
        f"node {plan.node} asks from {address}, and boots from {record.address} (MAC {record.mac}): boot it from that "
        "NIC, or set its `mac` and `address` to those of this one"
    )


def _network_words(decided: Effective) -> str:
    """`ip=` as the kernel documents it in nfsroot.rst, and BOOTIF= as PXELINUX writes it."""
    network = ipaddress.IPv4Network(decided.network.cidr)
    octets = names.mac(decided.node.mac).split(":")
    # The first octet of BOOTIF is the hardware type of ARP: 01 Ethernet, 20 InfiniBand.
    hardware = "01" if len(octets) == _ETHERNET_OCTETS else "20"
    return (
        f"ip={decided.node.address}::{decided.network.gateway or ''}:{network.netmask}:{decided.name}:: "
        f"BOOTIF={'-'.join([hardware, *octets])}"
    )
