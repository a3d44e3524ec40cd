"""Who may do what on the bus, as it is derived from the contract; `test_permissions` holds a server to it."""

import pytest

from shoal_model import contract, permissions
from shoal_model.contract import NODE, OPERATOR
from shoal_model.permissions import ANSWERS, PRINCIPALS, Permissions, pattern
from shoal_model.subjects import Service


@pytest.mark.parametrize(
    ("subject", "everybody", "one"),
    [
        ("rpc.fleet.v1.exec", "rpc.fleet.v1.exec", "rpc.fleet.v1.exec"),
        ("rpc.registry.v1.boot.<node>", "rpc.registry.v1.boot.*", "rpc.registry.v1.boot.n001"),
        ("evt.job.<id>.progress", "evt.job.*.progress", "evt.job.*.progress"),
        ("evt.boot.<node>.<stage>", "evt.boot.>", "evt.boot.n001.>"),
        ("node.<node>.options", "node.*.options", "node.n001.options"),
    ],
)
def test_a_subject_of_the_contract_as_a_pattern(subject: str, everybody: str, one: str) -> None:
    assert pattern(subject) == everybody
    assert pattern(subject, "n001") == one


def test_a_node_speaks_for_itself_alone() -> None:
    assert permissions.node("n001") == Permissions(
        publish=(
            "rpc.registry.v1.boot.n001",
            "rpc.mcastd.v1.join.n001",
            "rpc.mcastd.v1.leave.n001",
            "rpc.execd-config.v1.announce.n001",
            "rpc.auth.v1.announce-reboot.n001",
            "told.boot.n001.>",
            "told.node.n001.log",
            "node.n001.heartbeat",
        ),
        subscribe=("node.n001.options", "node.n001.exec", "_INBOX.node.n001.>"),
        responses=ANSWERS,
    )


@pytest.mark.parametrize("name", ["", "*", ">", "n001.>", "n001 n002", "N001", "n.1", "n001\r\nPUB"])
def test_what_is_no_node_gets_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        permissions.node(name)


def test_a_stranger_gets_nothing() -> None:
    for stranger in ("node", "root", "", "*"):
        with pytest.raises(KeyError):
            permissions.of(stranger)


def test_everybody_of_the_contract_has_a_name_here() -> None:
    known = {*map(str, Service), NODE, OPERATOR}
    for one in (*contract.REQUESTS, *contract.EVENTS, *contract.NODE_TOPICS, *contract.JOBS):
        ends = f"{one.sender}, {one.receiver}".split(", ")
        assert set(ends) <= known, one.subject


def test_dhcp_whole() -> None:
    """A small one, to be read at a glance."""
    reads = [
        "CONSUMER.CREATE.KV_records.*.$KV.records.>",
        "CONSUMER.MSG.NEXT.KV_records.*",
        "CONSUMER.DELETE.KV_records.*",
    ]
    looks = ["STREAM.INFO.EVENTS", "STREAM.INFO.JOBS", "STREAM.INFO.KV_state"]
    dhcp = permissions.of("dhcp")
    assert set(dhcp.publish) == {
        "evt.machine.*.seen",
        "evt.boot.>",
        "$JS.ACK.KV_records.>",
        *(f"$JS.API.{what}" for what in (*reads, *looks)),
    }
    assert set(dhcp.subscribe) == {
        "_INBOX.dhcp.>",
        *(f"$SRV.{verb}{tail}" for verb in ("PING", "INFO", "STATS") for tail in ("", ".dhcp", ".dhcp.*")),
    }


def test_a_bucket_with_one_writer_is_written_where_that_one_alone_knows() -> None:
    assert permissions.OWNERS == {"records": "registry", "secrets": "registry", "identity": "auth"}
    assert permissions.owned("registry") == ("records", "secrets")
    assert permissions.owned("auth") == ("identity",)
    assert permissions.owned("fleet") == ()
    secrets = {bucket: f"{bucket}0011" for bucket in permissions.OWNERS}
    for principal in PRINCIPALS:
        written = {subject for subject in permissions.of(principal, secrets).publish if subject.startswith("$W.")}
        assert written == {f"$W.{secrets[bucket]}.{bucket}.>" for bucket in permissions.owned(principal)}
        plain = [subject for subject in permissions.of(principal, secrets).publish if subject.startswith("$KV.")]
        assert all(subject.startswith("$KV.state.") for subject in plain)
    assert "$KV.records.>" in permissions.of("registry").publish


@pytest.mark.parametrize("principal", PRINCIPALS)
def test_nobody_may_do_everything(principal: str) -> None:
    may = permissions.of(principal)
    for subject in (*may.publish, *may.subscribe):
        assert subject.split(".")[0] not in ("*", ">")
        assert subject not in ("$JS.>", "$JS.API.>", "$KV.>", "rpc.>", "node.>", "_INBOX.>", "$SYS.>")
    assert not [subject for subject in may.publish if subject.startswith("_INBOX")]
    assert not [subject for subject in may.publish if "STREAM.DELETE" in subject or "PURGE" in subject]
    assert len(set(may.publish)) == len(may.publish)


def test_operators_are_asked_nothing() -> None:
    assert permissions.of(OPERATOR).responses is None
    assert {permissions.of(service).responses for service in Service} == {ANSWERS}
