"""What one head consists of, as data."""

from pathlib import Path

import pytest

from shoal_cli.up import plan
from shoal_model.subjects import Service

HEAD = plan.Head("br0", "10.77.0.1", Path("/var/lib/shoal"))


def test_the_bus_listens_on_the_boot_network_alone_and_syncs_every_write() -> None:
    assert plan.nats_config(HEAD, 'head.example "x') == (
        "# Written by `shoal up` at each start; changes are lost.\n"
        'server_name: "shoal-head-example--x"\n'
        'listen: "10.77.0.1:4222"\n'
        'http: "127.0.0.1:8222"\n'
        "max_payload: 8388608\n"
        "max_pending: 67108864\n"
        "max_connections: 65536\n"
        "lame_duck_duration: 30s\n"
        "lame_duck_grace_period: 1s\n"
        "jetstream {\n"
        '  store_dir: "/var/lib/shoal/nats"\n'
        "  sync_interval: always\n"
        "}\n"
    )


def test_every_service_runs_once_with_the_operators_settings_and_the_heads_on_top() -> None:
    programs = plan.services(HEAD, Path("/venv/bin"), {"SHOAL_STORE": "/big", "SHOAL_NATS": "nats://elsewhere:1"})
    assert [program.argv for program in programs] == [(f"/venv/bin/shoal-{service}",) for service in Service]
    assert len({program.health for program in programs}) == len(programs)
    for program in programs:
        assert program.env["SHOAL_STORE"] == "/big"
        assert program.env["SHOAL_NATS"] == "nats://10.77.0.1:4222"
        assert program.env["SHOAL_LISTEN"] == "10.77.0.1"
        assert program.health == f"http://{program.env['SHOAL_METRICS']}/readyz"


def test_what_tells_that_a_program_is_unwell_hides_nothing_and_only_the_bus_is_restarted_for_it() -> None:
    bus = plan.nats_program(Path("/venv/bin/nats-server"), Path("/x/nats.conf"), {})
    assert (bus.alive, bus.restart_helps) == ("http://127.0.0.1:8222/healthz", True)
    for program in plan.services(HEAD, Path("/venv/bin"), {}):
        assert program.alive == f"http://{program.env['SHOAL_METRICS']}/healthz"
        assert not program.restart_helps


@pytest.mark.parametrize(("given", "listen"), [("0.0.0.0", "0.0.0.0"), ("10.0.0.1", "10.0.0.1"), ("", "10.77.0.1")])
def test_the_operator_may_have_nodes_answered_elsewhere(given: str, listen: str) -> None:
    programs = plan.services(HEAD, Path("/venv/bin"), {"SHOAL_LISTEN": given})
    assert {program.env["SHOAL_LISTEN"] for program in programs} == {listen}


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"), [(1, 0.25, 0.5), (2, 0.5, 1.0), (4, 2.0, 4.0), (7, 15, 30), (10**6, 15, 30)]
)
def test_starts_back_off_spread_and_capped(failures: int, shortest: float, longest: float) -> None:
    assert plan.backoff(failures, 0.0) == shortest
    assert plan.backoff(failures, 1.0) == longest


@pytest.mark.parametrize(
    ("answer", "version"),
    [("nats-server: v2.15.1\n", (2, 15)), ("nats-server: v2.9.10", (2, 9)), ("", None), ("command not found", None)],
)
def test_versions(answer: str, version: object) -> None:
    assert plan.version_of(answer) == version


def document(**network: object) -> dict[str, object]:
    return {"networks": {"boot": network}}


@pytest.mark.parametrize(
    ("addresses", "given", "chosen"),
    [
        (["10.77.0.1"], None, "10.77.0.1"),
        (["10.0.0.1", "10.77.0.1"], document(boot="true", head="10.77.0.1"), "10.77.0.1"),
        (["10.0.0.1"], {"nodes": {}}, "10.0.0.1"),
        (["10.0.0.1"], document(head="10.77.0.1"), "10.0.0.1"),
        (["10.0.0.1"], {"networks": "nonsense"}, "10.0.0.1"),
    ],
)
def test_the_heads_address(addresses: list[str], given: dict[str, object] | None, chosen: str) -> None:
    assert plan.address_for("eth1", addresses, given) == chosen


@pytest.mark.parametrize(
    ("addresses", "given", "complaint"),
    [
        ([], None, "interface eth1 has no IPv4 address"),
        (["10.0.0.1"], document(boot="true", head="10.77.0.1"), "is 10.77.0.1, but interface eth1 has 10.0.0.1"),
        (["10.0.0.1"], document(boot="yes", head="10.77"), "networks.boot.head"),
        (["127.0.0.1"], None, "no node can reach 127.0.0.1"),
    ],
)
def test_a_head_that_cannot_be_there_is_refused(
    addresses: list[str], given: dict[str, object] | None, complaint: str
) -> None:
    with pytest.raises(plan.CannotStart, match=complaint):
        plan.address_for("eth1", addresses, given)


def test_records_that_place_the_head_elsewhere_are_told_with_both_addresses() -> None:
    assert plan.elsewhere(HEAD, {}) is None
    assert plan.elsewhere(HEAD, {"boot": {"boot": True, "head": "10.77.0.1"}, "data": {"head": "10.9.0.1"}}) is None
    told = plan.elsewhere(HEAD, {"data": {"head": "10.9.0.1"}, "boot": {"boot": True, "head": "10.88.0.1"}})
    assert told is not None
    assert all(part in told for part in ("10.77.0.1 (br0)", "10.88.0.1", "shoal network set boot head=10.77.0.1"))
