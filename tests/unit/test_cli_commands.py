"""The commands against a cluster in memory: what they ask for, what they print, how they end."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.cluster import FakeCluster
from shoal_bus.api import Bus
from shoal_bus.errors import Conflict, Invalid, Unavailable
from shoal_cli import documents
from shoal_cli.main import run
from shoal_model import messages as m
from shoal_model.records import Kind
from shoal_model.subjects import Service, Stage, boot_event, event

NOW = datetime.now(UTC)
RECORDS: dict[Kind, dict[str, dict[str, Any]]] = {
    Kind.NODE: {
        "n001": {"mac": "52:54:00:77:00:11", "address": "10.77.0.11", "template": "compute"},
        "n002": {"mac": "52:54:00:77:00:12", "address": "10.77.0.12", "boot": {"loader": "ipxe"}},
    },
    Kind.NETWORK: {"boot": {"cidr": "10.77.0.0/24", "head": "10.77.0.1", "boot": True}},
}
ADDED = m.RecordChange(
    kind=Kind.NODE, name="n003", what="added", fields=[m.FieldChange(field="address", after="10.77.0.13")]
)
GONE = m.RecordChange(kind=Kind.NODE, name="n001", what="removed")


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster(RECORDS)
    cluster.answer(Service.REGISTRY, "change", m.ChangeRequest, m.ChangeReply(changes=[ADDED], revision=8))
    cluster.answer(Service.REGISTRY, "apply", m.ApplyRequest, m.ChangeReply(changes=[ADDED], revision=8))
    return cluster


def test_list_as_table_json_and_yaml(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.shoal("node", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NODE", "HOST", "NAME", "ADDRESS", "MAC", "TEMPLATE", "IMAGE", "DESCRIPTION"]
    assert lines[1].split() == ["n001", "n001", "10.77.0.11", "52:54:00:77:00:11", "compute", "-", "-"]
    assert cluster.shoal("node", "list", "@compute", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"n001": RECORDS[Kind.NODE]["n001"]}
    assert cluster.shoal("network", "list", "-o", "yaml") == 0
    assert yaml.safe_load(capsys.readouterr().out) == RECORDS[Kind.NETWORK]


def test_add_says_field_by_field_what_was_added(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.shoal("node", "add", "n003", "mac=52:54:00:77:00:13", "address=10.77.0.13") == 0
    assert capsys.readouterr().out == "+ node n003\n    address: 10.77.0.13\n1 record added (revision 8)\n"
    [request] = cluster.asked(m.ChangeRequest)
    assert (request.expected_revision, request.dry_run, request.author) == (7, False, "tester@here")
    assert request.operations[0].record == {"mac": "52:54:00:77:00:13", "address": "10.77.0.13"}


def test_add_refuses_what_exists(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.shoal("node", "add", "n001", "mac=52:54:00:77:00:13") == 2
    assert "node n001 exists already" in capsys.readouterr().err
    assert not cluster.asked(m.ChangeRequest)


def test_set_changes_every_node_of_a_set_in_one_change(cluster: FakeCluster) -> None:
    assert cluster.shoal("node", "set", "n[001-002]", "boot.loader=", "properties.rack=r1", "--dry-run") == 0
    [request] = cluster.asked(m.ChangeRequest)
    assert request.dry_run
    assert [(o.action, o.name) for o in request.operations] == [("put", "n001"), ("put", "n002")]
    assert request.operations[1].record == {
        "mac": "52:54:00:77:00:12",
        "address": "10.77.0.12",
        "boot": {},
        "properties": {"rack": "r1"},
    }


def test_set_reads_again_when_somebody_was_quicker(cluster: FakeCluster) -> None:
    revisions = iter([7, 7, 8, 8, 8])
    attempts = []

    def listed(request: m.RecordsRequest) -> m.RecordsReply:
        return m.RecordsReply(records=RECORDS[Kind.NETWORK], revision=next(revisions))

    def changed(request: m.ChangeRequest) -> m.ChangeReply:
        attempts.append(request.expected_revision)
        if len(attempts) == 1:
            raise Conflict("the head moved on")
        return m.ChangeReply(changes=[], revision=9)

    cluster.answer(Service.REGISTRY, "list", m.RecordsRequest, listed)
    cluster.answer(Service.REGISTRY, "change", m.ChangeRequest, changed)
    assert cluster.shoal("network", "set", "boot", "domain=lab") == 0
    assert attempts == [7, 8]


def test_removal_needs_a_yes(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.answer(Service.REGISTRY, "change", m.ChangeRequest, m.ChangeReply(changes=[GONE], revision=8))
    assert cluster.shoal("node", "rm", "n001") == 1
    assert "say -y" in capsys.readouterr().err
    assert [request.dry_run for request in cluster.asked(m.ChangeRequest)] == [True]
    assert cluster.shoal("node", "rm", "n001", "-y") == 0
    assert "1 record removed" in capsys.readouterr().out
    assert not cluster.asked(m.ChangeRequest)[-1].dry_run


def test_apply_reads_a_file_and_prints_the_difference(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("nodes:\n  n003: {mac: 52:54:00:77:00:13, address: 10.77.0.13}\n")
    assert cluster.shoal("apply", "-f", str(file), "--dry-run") == 0
    assert "1 record added (dry run: nothing stored)" in capsys.readouterr().out
    assert cluster.shoal("apply", "-f", str(file)) == 0
    first, second = cluster.asked(m.ApplyRequest)
    assert (first.dry_run, second.dry_run) == (True, False)
    assert second.document == {"nodes": {"n003": {"mac": "52:54:00:77:00:13", "address": "10.77.0.13"}}}


def test_apply_with_prune_stores_what_was_shown_or_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.answer(Service.REGISTRY, "apply", m.ApplyRequest, m.ChangeReply(changes=[GONE], revision=7))
    file = tmp_path / "cluster.yaml"
    file.write_text("nodes: {}\n")
    assert cluster.shoal("apply", "-f", str(file), "--prune") == 1
    assert cluster.shoal("apply", "-f", str(file), "--prune", "-y") == 0
    last = cluster.asked(m.ApplyRequest)[-1]
    assert (last.dry_run, last.prune, last.expected_revision) == (False, True, 7)


def test_files_that_cannot_be_applied(cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, binary, empty = tmp_path / "broken.yaml", tmp_path / "binary.yaml", tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    huge = tmp_path / "huge.yaml"
    with huge.open("wb") as file:
        file.truncate((64 << 20) + 1)
    broken.write_text("nodes: {}\nnodes: {}\n")
    binary.write_bytes(b"nodes: \xff\n")
    for path, complaint in (
        (tmp_path / "missing.yaml", "cannot read"),
        (broken, "broken.yaml: line 2: 'nodes' stands here twice"),
        (binary, "is not UTF-8"),
        (empty, "empty.yaml: the document is empty"),
        (tmp_path, "cannot read"),
        (Path("/dev/zero"), "/dev/zero holds more than 64 MiB"),
        (huge, "huge.yaml holds more than 64 MiB"),
    ):
        assert cluster.shoal("apply", "-f", str(path)) == 1
        assert complaint in capsys.readouterr().err
    assert not cluster.asked(m.ApplyRequest)


def test_export_is_what_apply_reads(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"images": {"compute": {"flavor": "bookworm", "version": "1.10"}}}
    cluster.answer(Service.REGISTRY, "export", m.Empty, m.ExportReply(document=document, revision=3))
    assert cluster.shoal("export") == 0
    assert documents.parse_map(capsys.readouterr().out) == document


def test_the_registrys_no_is_one_sentence(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.answer(Service.REGISTRY, "change", m.ChangeRequest, Invalid("nodes.n003.mac: taken by \x1b[31mn001"))
    assert cluster.shoal("node", "add", "n003", "mac=x") == 1
    assert capsys.readouterr().err == "shoal: nodes.n003.mac: taken by \\x1b[31mn001\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["node", "list", "n[1"], "not a set of nodes"),
        (["node", "set", "n001", "image"], "is not FIELD=VALUE"),
        (["node", "add", "N001", "mac=x"], "not a name"),
        (["node", "frobnicate"], "No such command"),
        (["exec", "n001", "--timeout", "0", "--", "true"], "--timeout must be"),
        (["boot", "watch", "--until", "lunch"], "lunch"),
        (["boot", "watch", "--until", "systemd.running", "--timeout", "nan"], "nan is not a time to wait"),
        (["boot", "watch", "--until", "systemd.running", "--timeout", "-1"], "-1 is not a time to wait"),
        (["image", "build", "compute", "--wait", "--timeout", "inf"], "inf is not a time to wait"),
        (["exec", "n001", "--", "\udcff\udcfe"], "argument 4 is not UTF-8 text: \\xff\\xfe"),
        (["node", "set", "n001", "description=\udcff"], "argument 4 is not UTF-8 text: description=\\xff"),
        (["discovered", "register", "n003", "--address", "10.77"], "not an IPv4 address"),
        (["image", "build", "N_X"], "'N_X' is not a name"),
        (["image", "build", "../x", "--wait"], "'../x' is not a name"),
        (["rootfs", "commit", "A"], "'A' is not a name"),
        (["image", "show", "../x"], "'../x' is not a name"),
        (["preview", "n[001-002]"], "n[001-002] are 2 nodes (n[001-002]): name one of them"),
        (["boot", "why", "@*"], "@* are 2 nodes (n[001-002]): name one of them"),
        (["exec", "n001", "--", *["x"] * 4097], "command: List should have at most 4096 items"),
        (["exec", "n001", "--", *["x"] * 4097], "(given: ['x', 'x'"),
    ],
)
def test_wrong_usage_ends_with_2(
    cluster: FakeCluster, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.shoal(*arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "Traceback" not in error


def test_an_unregistered_node_is_named(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.shoal("node", "list", "n[002-004]") == 1
    assert capsys.readouterr().err == "shoal: not registered: n[003-004]; `shoal node list` shows those that are\n"


def test_show_node_tells_where_values_come_from(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    values = [m.EffectiveValue(field="image", value="compute", source="template compute")]
    cluster.answer(Service.REGISTRY, "show-node", m.ShowNodeRequest, m.ShowNodeReply(node="n001", values=values))
    assert cluster.shoal("node", "show", "n001") == 0
    assert "n001  image  compute  template compute" in capsys.readouterr().out


def test_show_node_puts_what_is_overridden_beneath(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = [
        m.OverriddenValue(value="console=ttyS0", source="template compute"),
        m.OverriddenValue(value="quiet\x1b", source="global"),
    ]
    value = m.EffectiveValue(field="boot.parameters", value="console=ttyS1", source="host n001", overridden=hidden)
    reply = m.ShowNodeReply(node="n001", values=[value, value.model_copy(update={"overridden": []})])
    cluster.answer(Service.REGISTRY, "show-node", m.ShowNodeRequest, reply)
    assert cluster.shoal("node", "show", "n001") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "NODE FIELD VALUE FROM",
        "n001 boot.parameters console=ttyS1 host n001",
        "n001 (console=ttyS0 template compute)",
        "n001 (quiet\\x1b global)",
        "n001 boot.parameters console=ttyS1 host n001",
    ]


def test_status_knows_nodes_that_fleet_does_not_and_fails_for_lost_ones(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [m.NodeStatus(node="n001", state=m.NodeState.UP, since=NOW)]
    cluster.answer(Service.FLEET, "status", m.StatusRequest, m.StatusReply(nodes=states))
    assert cluster.shoal("node", "status", "-o", "json") == 0
    assert [s["state"] for s in json.loads(capsys.readouterr().out)] == ["up", "unknown"]
    lost = [m.NodeStatus(node="n002", state=m.NodeState.LOST)]
    cluster.answer(Service.FLEET, "status", m.StatusRequest, m.StatusReply(nodes=lost))
    assert cluster.shoal("node", "status") == 1


def result(node: str, code: int | None, out: bytes, state: str) -> m.ExecResult:
    return m.ExecResult(node=node, state=m.ExecState(state), exit_code=code, stdout=out, stderr=b"")


def test_exec_groups_equal_output_and_fails_if_a_node_did(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [result("n001", 0, b"6.1\n", "success"), result("n002", 0, b"6.1\n", "success")]
    cluster.answer(Service.FLEET, "exec", m.ExecRequest, m.ExecReply(id="x", results=both))
    assert cluster.shoal("exec", "n[001-002]", "--", "uname", "-r", "--help") == 0
    assert capsys.readouterr().out == "--- n[001-002] (2)\n6.1\n"
    assert cluster.asked(m.ExecRequest)[0].command == ["uname", "-r", "--help"]
    bad = [both[0], result("n002", 3, b"\x1b[2Joops", "failed"), result("n003", None, b"", "unreachable")]
    cluster.answer(Service.FLEET, "exec", m.ExecRequest, m.ExecReply(id="x", results=bad))
    assert cluster.shoal("exec", "n[001-002]", "--", "true") == 1
    captured = capsys.readouterr()
    assert captured.out == "--- n001\n6.1\n--- n002: exit status 3\n\\x1b[2Joops\n--- n003: unreachable\n"
    assert captured.err == "failed on n[002-003] (2 of 3)\n"


def preview_file(path: str, content: bytes | None, origin: str = "options") -> m.PreviewFile:
    digest = hashlib.sha256(content or b"").hexdigest()
    return m.PreviewFile(
        path=path, kind="file", mode=0o640, uid=0, gid=4, origin=origin, content=content, sha256=digest, size=7
    )


def test_preview_lists_files_and_prints_the_exact_bytes_of_the_one_that_counts(
    cluster: FakeCluster, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    files = [preview_file("/etc/motd", b"first"), preview_file("/etc/motd", b"\xffsecond\x00", "motd")]
    action = m.OptionAction(verb="hostname", arguments=["n001"])
    reply = m.PreviewReply(node="n001", generation="0" * 64, files=files, actions=[action])
    cluster.answer(Service.EXECD_CONFIG, "preview", m.PreviewRequest, reply)
    assert cluster.shoal("preview", "n001") == 0
    told = capsysbinary.readouterr().out.decode()
    assert "-rw-r-----  0:4    7 B   motd     /etc/motd" in told
    assert "then: hostname n001" in told
    assert cluster.shoal("preview", "n001", "/etc/motd") == 0
    assert capsysbinary.readouterr().out == b"\xffsecond\x00"
    assert cluster.shoal("preview", "n001", "/etc/shadow") == 1
    assert b"gets no /etc/shadow" in capsysbinary.readouterr().err


def story(*stages: Stage, **last: object) -> m.Boot:
    events = [
        m.BootEvent(node="n001", stage=stage, at=NOW + timedelta(seconds=number)) for number, stage in enumerate(stages)
    ]
    events[-1] = events[-1].model_copy(update=last)
    return m.Boot(node="n001", boot="abc", events=events)


def test_why_tells_where_it_stopped_and_shows_the_log(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    failed = story(Stage.DHCP_OFFER, Stage.IMAGE_VERIFIED, status=m.Status.FAILED, reason="block 3 is wrong")
    cluster.answer(Service.FLEET, "boots", m.BootsRequest, m.BootsReply(boots=[failed]))
    cluster.answer(Service.FLEET, "log", m.LogRequest, m.LogReply(boot="abc", text="one\ntwo\x1b\nthree\n"))
    assert cluster.shoal("boot", "why", "n001", "--lines", "2") == 1
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == "n001 failed at image.verified: block 3 is wrong"
    assert "  two\\x1b\n  three\n" in told
    assert "  one" not in told


def test_why_of_a_node_that_arrived_and_of_one_that_never_asked(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.answer(Service.FLEET, "log", m.LogRequest, Unavailable("no fleet"))
    up = story(Stage.DHCP_OFFER, Stage.SYSTEMD_RUNNING)
    cluster.answer(Service.FLEET, "boots", m.BootsRequest, m.BootsReply(boots=[up]))
    assert cluster.shoal("boot", "why", "n001", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["arrived"] is True
    cluster.answer(Service.FLEET, "boots", m.BootsRequest, m.BootsReply(boots=[]))
    assert cluster.shoal("boot", "why", "n001") == 1
    assert "no boot is known of n001: its firmware never asked for a loader" in capsys.readouterr().err


def emitting(*events: m.BootEvent | m.JobProgress | m.JobDone) -> Callable[[Bus], Awaitable[None]]:
    async def emit(bus: Bus) -> None:
        for told in events:
            if isinstance(told, m.BootEvent):
                await bus.emit(boot_event(told.node, told.stage), told)
            else:
                what = "done" if isinstance(told, m.JobDone) else "progress"
                await bus.emit(event("job", told.job, what), told)

    return emit


def test_build_follows_its_own_job_to_the_end(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    progress = m.JobProgress(job="j1", image="compute", step="merge layers", at=NOW)
    other = m.JobDone(job="j2", image="login", status=m.Status.FAILED, reason="not ours", at=NOW)
    done = m.JobDone(job="j1", image="compute", status=m.Status.OK, digest="a" * 64, at=NOW)
    cluster.emit_on(
        Service.IMAGE_BUILDER, "build", m.BuildRequest, m.BuildReply(job="j1"), emitting(progress, other, done)
    )
    assert cluster.shoal("image", "build", "compute", "--wait") == 0
    told = capsys.readouterr().out
    assert "image compute: merge layers" in told
    assert "image compute is published: aaaaaaaaaaaa" in told
    failed = m.JobDone(job="j1", image="compute", status=m.Status.FAILED, reason="disk full", at=NOW)
    cluster.emit_on(Service.IMAGE_BUILDER, "build", m.BuildRequest, m.BuildReply(job="j1"), emitting(failed))
    assert cluster.shoal("image", "build", "compute", "--wait") == 1
    assert "image compute was not built: disk full" in capsys.readouterr().err


def test_build_gives_up_after_its_time(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.answer(Service.IMAGE_BUILDER, "build", m.BuildRequest, m.BuildReply(job="j1"))
    assert cluster.shoal("image", "build", "compute", "--wait", "--timeout", "0.05") == 1
    assert "was not built within 0 s" in capsys.readouterr().err


def test_register_counts_up_in_the_order_of_first_requests(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    machines = [
        m.Machine(mac=f"52:54:00:00:00:{n:02x}", first_seen=NOW - timedelta(minutes=n), last_seen=NOW) for n in (1, 2)
    ]
    cluster.answer(Service.REGISTRY, "discovered", m.Empty, m.MachinesReply(machines=machines))
    command = ("discovered", "register", "n[008-009]", "--address", "10.77.0.20", "template=compute")
    assert cluster.shoal(*command) == 0
    [request] = cluster.asked(m.ChangeRequest)
    assert [(o.name, o.record) for o in request.operations] == [
        ("n008", {"mac": "52:54:00:00:00:02", "address": "10.77.0.20", "template": "compute"}),
        ("n009", {"mac": "52:54:00:00:00:01", "address": "10.77.0.21", "template": "compute"}),
    ]
    assert cluster.shoal("discovered", "register", "n008", "--address", "10.77.0.20") == 2
    capsys.readouterr()
    assert cluster.shoal("discovered", "register", "n[008-010]", "--address", "10.77.0.20") == 1
    error = capsys.readouterr().err
    assert "2 machines discovered so far; discovered: 52:54:00:00:00:02, 52:54:00:00:00:01. Name fewer nodes" in error
    stranger = ("--mac", "52:54:00:00:00:09")
    assert cluster.shoal("discovered", "register", "n008", "--address", "10.77.0.20", *stranger) == 1
    error = capsys.readouterr().err
    assert "machines: 52:54:00:00:00:09; discovered: 52:54:00:00:00:02, 52:54:00:00:00:01" in error
    assert cluster.shoal("discovered", "register", "n001", "--address", "10.77.0.20", "--mac", "52-54-00-00-00-01") == 2


def test_lists_of_modules_sessions_machines(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    info = m.ModuleInfo(name="core", version="1.0.3", flavor="bookworm", sha256="a" * 64, size=90_000_000, packages=212)
    cluster.answer(Service.IMAGE_BUILDER, "modules", m.Empty, m.ModulesReply(modules=[info]))
    assert cluster.shoal("module", "list") == 0
    assert "core    bookworm  1.0.3    212       90.0 MB" in capsys.readouterr().out
    session = m.SessionInfo(
        session=16, image="b" * 64, size=1000, sent=1100, receivers=2, complete=2, started=NOW, ended=NOW
    )
    cluster.answer(Service.MCASTD, "sessions", m.Empty, m.SessionsReply(sessions=[session]))
    assert cluster.shoal("session", "list") == 0
    assert "00000010  bbbbbbbbbbbb  1.0 kB  1.10       2 of 2" in capsys.readouterr().out
    archive = {"sha256": "c" * 64, "size": 2048}
    reply = m.CommitRootfsReply.model_validate({"archive": archive, "files": 3})
    cluster.answer(Service.IMAGE_BUILDER, "commit-rootfs", m.CommitRootfsRequest, reply)
    assert cluster.shoal("rootfs", "commit", "motd") == 0
    assert capsys.readouterr().out == "rootfs motd: 3 entries, 2.0 kB, sha256 cccccccccccc\n"


def test_without_a_cluster_it_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SHOAL_NATS", raising=False)
    monkeypatch.setenv("SHOAL_STATE", str(tmp_path))
    assert run(["node", "list"]) == 2
    assert "Give --nats" in capsys.readouterr().err
    (tmp_path / "context.yaml").write_text("nats: [")
    assert run(["node", "list"]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert run(["node", "--help"]) == 0


def test_a_bus_that_is_not_there_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal_cli.session._CONNECT_SECONDS", 0.2)
    assert run(["--nats", "nats://127.0.0.1:1", "node", "list"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("shoal: ")
    assert "nats://127.0.0.1:1: Connection refused. Does `shoal up` run" in error
    assert error.count("\n") == 1


def test_a_bug_is_told_without_a_traceback(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(bus: Bus) -> None:
        raise KeyError("deep inside")

    cluster.on_connect = broken
    assert cluster.shoal("export") == 1
    error = capsys.readouterr().err
    assert "KeyError: 'deep inside'. This is a bug in shoal" in error
    assert "Traceback" not in error
