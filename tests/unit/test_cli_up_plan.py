"""What one head consists of, as data."""

import re
from pathlib import Path

import pytest

from shoal_cli.identity import layout
from shoal_cli.identity.layout import Identity, Layout
from shoal_cli.up import plan
from shoal_identity.keys import Key
from shoal_model.subjects import Service

HEAD = plan.Head("br0", "10.77.0.1", Path("/var/lib/shoal"))
KEYS = {seed: Key.new(seed.role) for seed in layout.SEEDS}
SECRETS = {"records": "0011", "secrets": "0022", "identity": "0033"}
IDENTITY = Identity(Layout(HEAD.state), {seed: key.public for seed, key in KEYS.items()}, SECRETS)


def test_the_bus_listens_on_the_boot_network_alone_and_syncs_every_write() -> None:
    assert plan.nats_config(HEAD, 'head.example "x', IDENTITY, "5ec3e7").startswith(
        "# Written by `shoal up` at each start; changes are lost.\n"
        'server_name: "shoal-head-example--x"\n'
        'listen: "10.77.0.1:4222"\n'
        'http: "127.0.0.1:8222"\n'
        'http_base_path: "/5ec3e7"\n'
        "max_payload: 8388608\n"
        "max_pending: 67108864\n"
        'max_connections: 65536\nmax_subscriptions: 2000\nping_interval: "30s"\n'
        "lame_duck_duration: 30s\n"
        "lame_duck_grace_period: 1s\n"
        "jetstream {\n"
        '  store_dir: "/var/lib/shoal/nats"\n'
        "  sync_interval: always\n"
        "}\n"
        "accounts {\n"
    )


def test_the_bus_knows_everybody_by_a_public_key_and_nobody_else() -> None:
    config = plan.nats_config(HEAD, "head", IDENTITY, "5ec3e7")
    users = {seed: key for seed, key in IDENTITY.public.items() if seed not in (layout.BOOT, layout.IMAGE)}
    assert set(re.findall(r"\b[UA][A-Z2-7]{55}\b", config)) == set(users.values())
    assert not any(key.seed in config for key in KEYS.values())
    assert f"issuer: {IDENTITY.public[layout.ISSUER]}" in config
    assert 'cert_file: "/var/lib/shoal/keys/nats/server.crt"' in config
    assert 'key_file: "/var/lib/shoal/keys/nats/server.key"' in config


def test_the_bus_lets_each_bucket_be_written_where_its_writer_alone_knows() -> None:
    config = plan.nats_config(HEAD, "head", IDENTITY, "5ec3e7")
    for bucket, secret in SECRETS.items():
        assert config.count(f'"$W.{secret}.{bucket}.>"') == config.count(secret) == 1
    assert not any(secret in repr(IDENTITY) for secret in SECRETS.values())
    assert not any(secret in str(program) for secret in SECRETS.values() for program in services().values())


def services(env: dict[str, str] | None = None) -> dict[str, plan.Program]:
    return {program.name: program for program in plan.services(HEAD, Path("/venv/bin"), env or {}, IDENTITY)}


def test_every_service_runs_once_with_the_operators_settings_and_the_heads_on_top() -> None:
    programs = services({"SHOAL_STORE": "/big", "SHOAL_NATS": "nats://elsewhere:1", "SHOAL_KEY": "/mine"})
    assert {name: program.argv for name, program in programs.items()} == {
        **{str(service): (f"/venv/bin/shoal-{service}",) for service in Service},
        "auth-2": ("/venv/bin/shoal-auth",),
    }
    assert len({program.health for program in programs.values()}) == len(programs)
    for program in programs.values():
        assert program.env["SHOAL_STORE"] == "/big"
        assert program.env["SHOAL_NATS"] == "tls://10.77.0.1:4222"
        assert program.env["SHOAL_LISTEN"] == "10.77.0.1"
        assert program.env["SHOAL_CA"] == "/var/lib/shoal/ca.crt"
        assert program.health == f"http://{program.env['SHOAL_METRICS']}/readyz"


def test_a_service_is_told_of_its_own_part_of_the_identity_alone() -> None:
    own = {
        "registry": [],
        "fleet": [],
        "dhcp": [],
        "tftp": ["SHOAL_BOOT_KEY=tftp/boot.seed"],
        "image-builder": ["SHOAL_IMAGE_KEY=image-builder/image.seed"],
        "mcastd": ["SHOAL_TLS_CERT=mcastd/tls.crt", "SHOAL_TLS_KEY=mcastd/tls.key"],
        "execd-config": ["SHOAL_TLS_CERT=execd-config/tls.crt", "SHOAL_TLS_KEY=execd-config/tls.key"],
        "auth": [f"SHOAL_{name.upper()}_KEY=auth/{name}.seed" for name in ("callout", "issuer", "system")],
    }
    for name, program in services().items():
        service = name.removesuffix("-2")
        paths = sorted(f"{key}={path}" for key, path in program.env.items() if "/keys/" in path)
        expected = [f"SHOAL_KEY={service}/bus.seed", *own[service]]
        assert paths == sorted(word.replace("=", "=/var/lib/shoal/keys/") for word in expected)
        assert not any(key.seed in value for key in KEYS.values() for value in program.env.values())
    assert services()["auth"].env["SHOAL_BOOT_KEYS"] == IDENTITY.public[layout.BOOT]
    first, second = services()["auth"].env, services()["auth-2"].env
    assert {key for key in first if first[key] != second[key]} == {"SHOAL_METRICS"}


def test_what_tells_that_a_program_is_unwell_hides_nothing_and_only_the_bus_is_restarted_for_it() -> None:
    bus = plan.nats_program(Path("/venv/bin/nats-server"), Path("/x/nats.conf"), {}, "5ec3e7")
    assert (bus.alive, bus.restart_helps) == ("http://127.0.0.1:8222/5ec3e7/healthz", True)
    assert "5ec3e7" not in repr(bus)
    for program in services().values():
        assert program.alive == f"http://{program.env['SHOAL_METRICS']}/healthz"
        assert not program.restart_helps


@pytest.mark.parametrize(("given", "listen"), [("0.0.0.0", "0.0.0.0"), ("10.0.0.1", "10.0.0.1"), ("", "10.77.0.1")])
def test_the_operator_may_have_nodes_answered_elsewhere(given: str, listen: str) -> None:
    programs = services({"SHOAL_LISTEN": given})
    assert {program.env["SHOAL_LISTEN"] for program in programs.values()} == {listen}


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
