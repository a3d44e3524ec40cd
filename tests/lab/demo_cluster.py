"""The demo's cluster: two nodes that differ in host name, loader, network and customization."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLUSTER = """\
networks:
  boot: {cidr: 10.77.0.0/24, head: 10.77.0.1, boot: true, domain: demo.shoal}
  storage: {cidr: 10.78.0.0/24}
images:
  compute: {flavor: bookworm, version: "1.0", modules: [core]}
rootfs:
  red: {description: what the red node gets}
  blue: {description: what the blue node gets}
templates:
  compute: {image: compute, boot: {parameters: "console=ttyS0"}}
nodes:
  n001:                     # kernel and initrd by iPXE over HTTP
    name: red
    mac: "52:54:00:77:00:11"
    address: 10.77.0.11
    template: compute
    rootfs: [red]
  n002:                     # by PXELINUX over TFTP; a second NIC in another network
    name: blue
    mac: "52:54:00:77:00:12"
    address: 10.77.0.12
    template: compute
    boot: {loader: pxelinux}
    rootfs: [blue]
    nics:
      - {mac: "52:54:00:78:00:12", network: storage, address: 10.78.0.12}
"""


@dataclass(frozen=True)
class Expected:
    """What a node of the demo is like when it is up."""

    name: str
    mac: str
    addresses: tuple[str, ...]
    greeting: str
    second_mac: str | None = None


NODES = {
    "n001": Expected("red", "52:54:00:77:00:11", ("10.77.0.11/24",), "a red node, greeted before systemd by"),
    "n002": Expected(
        "blue",
        "52:54:00:77:00:12",
        ("10.77.0.12/24", "10.78.0.12/24"),
        "a blue node, greeted before systemd by",
        "52:54:00:78:00:12",
    ),
}

_SCRIPT = """\
#!/bin/sh
# Runs on the node after its files are written and before systemd starts.
read -r first </proc/1/comm
echo "a {colour} node, greeted before systemd by process 1, $first" >/etc/motd
"""


def write_trees(root: Path) -> Iterator[str]:
    """Write the trees of both nodes below `root`, as an operator would from the shell; their names, one by one."""
    for colour in ("red", "blue"):
        script = root / colour / "lib/shoal/init.d/50-greeting"
        script.parent.mkdir(parents=True)
        script.write_text(_SCRIPT.format(colour=colour))
        script.chmod(0o755)
        note = root / colour / "etc/demo/colour"
        note.parent.mkdir(parents=True)
        note.write_text(f"{colour}\n")
        note.chmod(0o640)
        yield colour
