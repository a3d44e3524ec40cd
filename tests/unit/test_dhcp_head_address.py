"""Whether the boot interface has the address at which nodes are told to find their head."""

import structlog
from structlog.testing import capture_logs

from lab.dhcp_cluster import HEAD, cluster
from shoal_dhcp.head_address import HeadAddress, complaint
from shoal_model.records import Cluster, Kind


def test_nothing_is_wrong_where_it_is_there_or_none_is_recorded() -> None:
    assert complaint(cluster(), "eth1", ["192.0.2.1", HEAD]) is None
    assert complaint(Cluster.model_validate({}), "eth1", ["192.0.2.1"]) is None


def test_both_addresses_and_the_ways_out_are_told() -> None:
    told = complaint(cluster(), "eth1", ["192.0.2.1"]) or ""
    assert all(part in told for part in (HEAD, "eth1 has 192.0.2.1", "shoal network set boot head="))
    assert "no IPv4 address" in (complaint(cluster(), "eth1", []) or "")


async def test_it_is_logged_once_and_again_when_it_comes_back() -> None:
    have = ["192.0.2.1"]
    watch = HeadAddress("eth1", cluster, structlog.stdlib.get_logger(), lambda _: have)
    with capture_logs() as logs:
        await watch.compare()
        watch.changed(Kind.NETWORK, "boot")
        await watch.compare()
        have[:] = [HEAD]
        await watch.compare()
        have[:] = ["192.0.2.1"]
        await watch.compare()
    assert [entry["event"] for entry in logs] == ["dhcp.head_not_here"] * 2


async def test_addresses_that_cannot_be_read_are_no_reason_to_end() -> None:
    def broken(_: str) -> list[str]:
        raise OSError("no netlink")

    with capture_logs() as logs:
        await HeadAddress("eth1", cluster, structlog.stdlib.get_logger(), broken).compare()
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("dhcp.addresses_unknown", "no netlink")]
