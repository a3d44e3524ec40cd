"""The text of each file that a node gets. Pure: records in, text out; golden tests hold every one of them."""

import hashlib
import ipaddress
import shlex
from collections.abc import Iterable, Mapping

from shoal_execd_config.nics import BOOT
from shoal_model.records import Cluster, Network, Nic
from shoal_model.resolve import Effective

_HEADING = "# Written by Shoal before systemd started; what is changed here is gone after a reboot.\n"
_ETHERNET_TEXT = 17
"""Characters of an Ethernet address with colons; InfiniBand's are longer."""


def hosts(cluster: Cluster, node: Effective) -> str:
    """hosts(5): localhost, and this node in each of its networks."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines.append(f"{node.node.address}\t{_names(node.name, node.network)}")
    lines += [
        f"{nic.address}\t{_names(f'{node.name}-{nic.network}', cluster.networks[nic.network])}"
        for nic in node.node.nics
    ]
    return _HEADING + "".join(f"{line}\n" for line in lines)


def _names(name: str, network: Network) -> str:
    return f"{name}.{network.domain} {name}" if network.domain else name


def machine_id(node: str) -> str:
    """machine-id(5), made of the id that never changes: a node is the same machine after every boot."""
    return hashlib.sha256(f"shoal machine-id {node}".encode()).hexdigest()[:32] + "\n"


def interfaces(cluster: Cluster, node: Effective, names: tuple[str, ...]) -> str:
    """interfaces(5) for ifupdown. The boot NIC is up already and stays up: what is on it must not lose it."""
    lines = [
        f"auto {BOOT}",
        f"no-auto-down {BOOT}",
        f"iface {BOOT} inet manual",
        f"    up ip address replace {node.node.address}/{_prefix(node.network)} broadcast + dev {BOOT}",
    ]
    if node.network.gateway is not None:
        lines.append(f"    up ip route replace default via {node.network.gateway} dev {BOOT}")
    for nic, name in zip(node.node.nics, names, strict=True):
        prefix = _prefix(cluster.networks[nic.network])
        lines += ["", f"auto {name}", f"iface {name} inet static", f"    address {nic.address}/{prefix}"]
    return _HEADING + "".join(f"{line}\n" for line in lines)


def _prefix(network: Network) -> int:
    return ipaddress.IPv4Network(network.cidr).prefixlen


def named_interfaces(node: Effective, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(hardware address, interface name) of every interface of the node, the boot NIC first."""
    return [(node.node.mac, BOOT), *zip((nic.mac for nic in node.node.nics), names, strict=True)]


def link(mac: str, name: str) -> str:
    """systemd.link(5): the interface with this address has this name. (A VLAN on top of it has the address too.)"""
    kind = "Type=ether\n" if len(mac) == _ETHERNET_TEXT else ""
    return f"{_HEADING}[Match]\nMACAddress={mac}\n{kind}\n[Link]\nNamePolicy=\nName={name}\n"


def resolv_conf(node: Effective) -> str:
    """resolv.conf(5)."""
    search = f"search {node.network.domain}\n" if node.network.domain else ""
    return _HEADING + search + "".join(f"nameserver {address}\n" for address in node.network.nameservers)


def authorized_keys(node: Effective) -> str:
    """sshd(8), AUTHORIZED_KEYS FILE FORMAT."""
    return _HEADING + "".join(f"{key}\n" for key in node.authorized_keys)


def boot_options(node: Effective) -> str:
    """Options of topic `boot`."""
    return _bash(
        {
            "SHOAL_IMAGE": node.image or "",
            "SHOAL_BOOT_STYLE": node.style,
            "SHOAL_PARAMETERS": node.parameters,
            "SHOAL_ROOT_SIZE": node.root_size,
            "SHOAL_TMP_SIZE": node.tmp_size,
        }
    )


def network_options(cluster: Cluster, node: Effective, names: tuple[str, ...]) -> str:
    """Options of topic `network`: the boot NIC has number 0, the SHOAL_NICS others are numbered from 1."""
    boot = Nic(mac=node.node.mac, network=node.network_name, address=node.node.address)
    values = {
        "SHOAL_NODE": node.id,
        "SHOAL_HOST_NAME": node.name,
        "SHOAL_DOMAIN": node.network.domain or "",
        "SHOAL_HEAD": node.network.head or _boot_head(cluster),
        **_interface(0, BOOT, boot, node.network),
        "SHOAL_GATEWAY": node.network.gateway or "",
        "SHOAL_NAMESERVERS": " ".join(node.network.nameservers),
        "SHOAL_NICS": str(len(names)),
    }
    for number, (nic, name) in enumerate(zip(node.node.nics, names, strict=True), 1):
        values |= _interface(number, name, nic, cluster.networks[nic.network])
    return _bash(values)


def _boot_head(cluster: Cluster) -> str:
    return next((network.head or "" for network in cluster.networks.values() if network.boot), "")


def _interface(number: int, name: str, nic: Nic, network: Network) -> Mapping[str, str]:
    start = f"SHOAL_NIC{number}_"
    return {
        f"{start}INTERFACE": name,
        f"{start}MAC": nic.mac,
        f"{start}NETWORK": nic.network,
        f"{start}ADDRESS": nic.address,
        f"{start}PREFIX": str(_prefix(network)),
    }


def property_options(node: Effective) -> str:
    """Options of topic `properties`: property `gpu-type` as SHOAL_PROPERTY_GPU_TYPE."""
    return _bash(
        {f"SHOAL_PROPERTY_{name.upper().replace('-', '_')}": node.properties[name] for name in sorted(node.properties)}
    )


def rootfs_options(node: Effective) -> str:
    """Options of topic `rootfs`."""
    return _bash({"SHOAL_ROOTFS": " ".join(node.rootfs)})


def _bash(values: Mapping[str, str]) -> str:
    return _HEADING + "".join(_assignments(values))


def _assignments(values: Mapping[str, str]) -> Iterable[str]:
    for key, value in values.items():
        yield f"{key}={shlex.quote(value)}\n"
