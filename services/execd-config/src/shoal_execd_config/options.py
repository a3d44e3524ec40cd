"""A node's records into what the node is to be: files, customizations, actions. Pure; the one place that decides it.

The node, the preview and, later, the drift check all read what this returns.
"""

import hashlib
import json
from dataclasses import dataclass

from shoal_execd_config import files
from shoal_execd_config.nics import interface_names
from shoal_model import ports
from shoal_model.messages import NodeOptions, OptionAction, OptionArchive, OptionFile
from shoal_model.resolve import Effective, Snapshot, Unresolvable, boot_network, effective

_KEYS = "/root/.ssh/authorized_keys"


@dataclass(frozen=True)
class _Content:
    """A file by its text."""

    path: str
    text: str
    mode: int = 0o644


def node_options(snapshot: Snapshot, node: str, scheme: str = "http") -> NodeOptions:
    """Everything that `node` is to be; `scheme` is how the URLs of the head's doors begin.

    Raises Unresolvable, naming what the records lack.
    """
    decided = effective(snapshot.cluster, node)
    for nic in decided.node.nics:
        if nic.network not in snapshot.cluster.networks:
            raise Unresolvable(f"node {node} has a NIC in network {nic.network!r}, which does not exist")
    names = interface_names(decided.node.nics)
    wanted = [_file(content) for content in _contents(snapshot, decided, names)]
    archives = [_archive(snapshot, decided, name) for name in decided.rootfs]
    actions = _actions(decided)
    return NodeOptions(
        node=node,
        generation=_generation(node, wanted, archives, actions),
        files=wanted,
        archives=archives,
        actions=actions,
        sources=sources(snapshot, scheme),
    )


def sources(snapshot: Snapshot, scheme: str) -> list[str]:
    """The head's doors that serve contents by their digest, as nodes reach them: ours, and mcastd's for a head whose
    store we do not see. Raises Unresolvable.
    """
    _, network = boot_network(snapshot.cluster)
    return [f"{scheme}://{network.head}:{port}" for port in (ports.OPTIONS_HTTP, ports.IMAGE_HTTP)]


def _contents(snapshot: Snapshot, node: Effective, names: tuple[str, ...]) -> list[_Content]:
    cluster = snapshot.cluster
    contents = [
        _Content("/etc/hostname", f"{node.name}\n"),
        _Content("/etc/hosts", files.hosts(cluster, node)),
        _Content("/etc/machine-id", files.machine_id(node.id), 0o444),
        _Content("/etc/network/interfaces.d/shoal", files.interfaces(cluster, node, names)),
    ]
    contents += [
        _Content(f"/etc/systemd/network/70-shoal-{name}.link", files.link(mac, name))
        for mac, name in files.named_interfaces(node, names)
    ]
    if node.network.nameservers:
        contents.append(_Content("/etc/resolv.conf", files.resolv_conf(node)))
    if node.authorized_keys:
        contents.append(_Content(_KEYS, files.authorized_keys(node), 0o600))
    contents += [
        _Content("/etc/shoal/options.d/boot", files.boot_options(node)),
        _Content("/etc/shoal/options.d/network", files.network_options(cluster, node, names)),
        _Content("/etc/shoal/options.d/properties", files.property_options(node)),
        _Content("/etc/shoal/options.d/rootfs", files.rootfs_options(node)),
    ]
    return contents


def _file(content: _Content) -> OptionFile:
    data = content.text.encode()
    digest = hashlib.sha256(data).hexdigest()
    return OptionFile(path=content.path, mode=content.mode, content=data, sha256=digest, size=len(data))


def _archive(snapshot: Snapshot, node: Effective, name: str) -> OptionArchive:
    release = snapshot.rootfs_releases.get(name)
    if release is None:
        raise Unresolvable(
            f"node {node.id} uses Root FS customization {name!r}, of which nothing is committed yet: "
            f"put its files below root-fs/{name} on the head and run `shoal rootfs commit {name}`"
        )
    return OptionArchive(name=name, archive=release.archive)


def _actions(node: Effective) -> list[OptionAction]:
    actions = [OptionAction(verb="hostname", arguments=[node.name])]
    if node.authorized_keys:
        actions.append(OptionAction(verb="directory", arguments=["/root/.ssh", "0700", "0", "0"]))
    actions.append(OptionAction(verb="ssh-host-keys"))
    if node.node.nics:
        actions.append(OptionAction(verb="network-links"))
    return actions


def _generation(node: str, wanted: list[OptionFile], archives: list[OptionArchive], actions: list[OptionAction]) -> str:
    """SHA-256 of what the options make of the node: where contents are fetched from is no part of it."""
    canonical = {
        "node": node,
        "files": [[file.path, file.mode, file.uid, file.gid, file.sha256] for file in wanted],
        "archives": [[archive.name, archive.archive.sha256] for archive in archives],
        "actions": [[action.verb, *action.arguments] for action in actions],
    }
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()
