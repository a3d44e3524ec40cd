"""Networks of the lab: a bridge, the head's address on it, a tap for each virtual node."""

from lab.space import Space, run

_QUEUE = 10_000
"""Frames that wait for a virtual node. Its machine stands still whenever the host runs something else, for longer than
any real one; with the usual thousand frames, that would look like a bad network.
"""


class Lan:
    """An Ethernet segment. Snooping is off, so that a group's datagrams reach every port, as on a plain switch."""

    def __init__(self, space: Space, bridge: str, address: str | None = None) -> None:
        """`address` is the head's, with its prefix length (`10.77.0.1/24`); None: the head has none there."""
        self.space, self.bridge, self.address = space, bridge, address
        run(space, "ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        if address is not None:
            run(space, "ip", "address", "add", address, "dev", bridge)
        run(space, "ip", "link", "set", bridge, "up")

    def tap(self, name: str) -> str:
        """A port for a virtual node; its name, at most 15 characters."""
        run(self.space, "ip", "tuntap", "add", name, "mode", "tap")
        run(self.space, "ip", "link", "set", name, "txqueuelen", str(_QUEUE))
        run(self.space, "ip", "link", "set", name, "master", self.bridge)
        run(self.space, "ip", "link", "set", name, "up")
        return name

    def client(self, name: str, mac: str) -> str:
        """A veth pair, one end a port of the bridge; the name of the other end, which has this MAC and is up."""
        run(self.space, "ip", "link", "add", name, "address", mac, "type", "veth", "peer", "name", f"{name}p")
        run(self.space, "ip", "link", "set", f"{name}p", "master", self.bridge, "up")
        run(self.space, "ip", "link", "set", name, "up")
        return name


def firewall(space: Space, rules: str) -> None:
    """Load an nftables rule set, as `nft -f` reads it."""
    run(space, "nft", "-f", "-", stdin=rules)


def block_multicast(space: Space, ports: range = range(10000, 65536)) -> None:
    """Drop every multicast datagram that the head sends to ports like those of image sessions."""
    firewall(
        space,
        f"table inet lab {{ chain out {{ type filter hook output priority 0; "
        f"ip daddr 224.0.0.0/4 udp dport {ports.start}-{ports.stop - 1} drop; }}; }}",
    )


def unblock(space: Space) -> None:
    """Take back what `block_multicast` did."""
    run(space, "nft", "delete", "table", "inet", "lab")


def slow(space: Space, port: str, rate: str) -> None:
    """Have a port deliver no more than this (`100mbit`) to the machine behind it: tc-tbf(8)."""
    run(space, "tc", "qdisc", "replace", "dev", port, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms")


def delivered(space: Space, port: str) -> int:
    """Bytes that went to the machine behind a port so far."""
    return int(run(space, "cat", f"/sys/class/net/{port}/statistics/tx_bytes"))
