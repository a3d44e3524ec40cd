"""A small cluster for tests of dhcp: two nodes in the boot network, one behind a relay, one beside its boot NIC."""

from shoal_dhcp.answers import Find
from shoal_dhcp.assignments import Assignment, assignment
from shoal_model.records import Cluster

HEAD = "10.77.0.1"


def cluster(**settings: object) -> Cluster:
    """The cluster; `settings` replace those of node n001."""
    n001 = {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", **settings}
    return Cluster.model_validate(
        {
            "networks": {
                "boot": {
                    "cidr": "10.77.0.0/24",
                    "head": HEAD,
                    "boot": True,
                    "gateway": "10.77.0.254",
                    "nameservers": ["10.77.0.1", "10.77.0.2"],
                    "domain": "cluster.test",
                },
                "far": {"cidr": "10.88.0.0/24", "gateway": "10.88.0.254"},
                "data": {"cidr": "10.99.0.0/24", "gateway": "10.99.0.254"},
            },
            "nodes": {
                "n001": n001,
                "n002": {
                    "mac": "52:54:00:77:00:12",
                    "address": "10.77.0.12",
                    "name": "beo-02",
                    "nics": [{"mac": "52:54:00:99:00:12", "network": "data", "address": "10.99.0.12"}],
                },
                "far1": {"mac": "52:54:00:88:00:11", "address": "10.88.0.11", "network": "far"},
            },
        }
    )


def find_in(records: Cluster) -> Find:
    """A lookup as `answer` wants it, straight from the records."""

    def find(mac: bytes) -> Assignment | None:
        text = mac.hex(":")
        for name, node in records.nodes.items():
            if text == node.mac or text in {nic.mac for nic in node.nics}:
                return assignment(records, name, text)
        return None

    return find
