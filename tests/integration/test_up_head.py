"""`shoal up` with the real services, and the command line against it, in a namespace of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from lab.head import SHOAL, Head
from lab.net import Lan
from lab.space import Namespace, run
from shoal_cli.identity import ca, layout
from shoal_cli.identity.layout import Layout
from shoal_identity.keys import Key
from shoal_identity.trust import Trust
from shoal_model import contract
from shoal_model.subjects import Service

pytestmark = pytest.mark.integration

CLUSTER = """\
networks:
  boot: {cidr: 10.77.0.0/24, head: 10.77.0.1, boot: true}
boot_configs:
  verbose: {parameters: debug console=ttyS0}
templates:
  compute: {boot: {config: verbose}}
nodes:
  n001: {mac: 52:54:00:77:00:11, address: 10.77.0.11, template: compute}
  n002: {mac: 52:54:00:77:00:12, address: 10.77.0.12, template: compute}
"""


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    with Namespace() as space:
        Lan(space, "br0", "10.77.0.1/24")
        yield space


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "cluster.yaml"
    file.write_text(CLUSTER)
    return file


@pytest.fixture(scope="module")
def head(space: Namespace, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with Head(space, "br0", tmp_path_factory.mktemp("head") / "state").start("--config", str(config)) as head:
        wait_for(lambda: "5 records added" in head.log.read_text(), head)
        yield head


def wait_for(true: Callable[[], bool], head: Head, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, head.tail()
        time.sleep(0.1)


def processes(head: Head) -> dict[str, int]:
    """The programs of a head by name, from inside its namespace: process ids as they are there."""
    listing = run(head.space, "ps", "-eww", "-o", "pid=,args=")
    rows = [line.split(None, 1) for line in listing.splitlines() if str(SHOAL.parent) in line]
    return {
        next(
            (Path(word).name for word in args.split()[:2][::-1] if Path(word).name.startswith(("shoal-", "nats-"))), ""
        ): int(pid)
        for pid, args in rows
    }


def test_everything_runs_and_the_configuration_is_applied(head: Head) -> None:
    assert set(processes(head)) >= {"nats-server", *(f"shoal-{service}" for service in Service)}
    assert run(head.space, "ps", "-eww", "-o", "args=").count("shoal-auth") == 2
    assert "n002  n002       10.77.0.12  52:54:00:77:00:12  compute" in head.shoal("node", "list")


def test_the_bus_listens_in_the_boot_network_alone(head: Head) -> None:
    listening = run(head.space, "ss", "-Hltn")
    addresses = {line.split()[3] for line in listening.splitlines()}
    assert {"10.77.0.1:4222", "127.0.0.1:8222"} <= addresses
    assert not {address for address in addresses if address.endswith((":4222", ":8222"))} - {
        "10.77.0.1:4222",
        "127.0.0.1:8222",
    }


def test_nodes_are_answered_in_the_boot_network_alone(head: Head) -> None:
    listening = run(head.space, "ss", "-Hlntu").splitlines()
    doors = {(line.split()[0], line.split()[4]) for line in listening}
    assert {("udp", "10.77.0.1:69"), ("udp", "10.77.0.1:6666")} <= doors
    assert {("tcp", f"10.77.0.1:{port}") for port in (8080, 8081, 8082)} <= doors
    # DHCP's are broadcasts: that socket is bound to the interface
    everywhere = {(kind, where) for kind, where in doors if not where.startswith(("10.77.0.1:", "127.0.0.1:"))}
    assert everywhere == {("udp", "0.0.0.0%br0:67")}


def test_a_head_that_is_well_says_so_everywhere(head: Head) -> None:
    script = "import sys, urllib.request; print(*(urllib.request.urlopen(url).status for url in sys.argv[1:]))"
    urls = [f"http://127.0.0.1:{port}/healthz" for port in range(9101, 9110)]
    assert run(head.space, sys.executable, "-c", script, *urls).split() == ["200"] * len(urls)


def test_nobody_on_the_machine_learns_from_the_bus_where_services_write(head: Head) -> None:
    """Its monitor tells how streams are, to whoever knows its path."""
    config = head.state / "nats.conf"
    assert config.stat().st_mode & 0o777 == 0o600
    path = next(line for line in config.read_text().splitlines() if line.startswith("http_base_path")).split('"')[1]
    script = """
import sys, urllib.error, urllib.request
for path in sys.argv[1:]:
    try:
        print(urllib.request.urlopen(f"http://127.0.0.1:8222{path}").status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
    asked = ("/jsz?streams=1&config=1", "/healthz", "/", f"{path}/healthz")
    assert run(head.space, sys.executable, "-c", script, *asked).split() == ["404", "404", "404", "200"]
    secrets = re.findall(r'"\$W\.([0-9a-f]{40})\.', config.read_text())
    assert len(secrets) == 3
    for log in (head.state / "log").iterdir():
        assert not any(secret in log.read_text() for secret in (*secrets, path))


def test_the_services_answer_an_operator_what_the_contract_says(head: Head) -> None:
    script = """
import asyncio, json, nats, sys
from collections import Counter
from pathlib import Path
from shoal_bus.dialling import dial
from shoal_bus.credentials import Credentials
from shoal_identity import trust
from shoal_identity.keys import Key
async def main(url, ca, key):
    tls = trust.parse(Path(ca).read_bytes()).client_context()
    operator = Credentials(key=Key.read(Path(key)), tls=tls, inbox_prefix="_INBOX.operator")
    link = await dial(url, "test", operator, Counter())
    replies = await link.client.subscribe("_INBOX.operator.answers")
    await link.client.publish("$SRV.INFO", reply="_INBOX.operator.answers")
    try:
        while True:
            info = json.loads((await replies.next_msg(timeout=2)).data)
            print(info["name"], *(endpoint["subject"] for endpoint in info["endpoints"]))
    except nats.errors.TimeoutError:
        await link.shut()
asyncio.run(main(*sys.argv[1:]))
"""
    told = run(head.space, sys.executable, "-c", script, head.nats, str(head.access.ca), str(head.access.key))
    answers = [line.split() for line in told.splitlines()]
    assert sorted(name for name, *_ in answers if name == "auth") == ["auth", "auth"]
    answered = {subject for _, *subjects in answers for subject in subjects}
    assert answered == {request.subject.replace("<node>", "*") for request in contract.REQUESTS}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ca", "{ca}"], "Authorization Violation"),
        (["--ca", "{ca}", "--key", "{stranger}"], "Authorization Violation"),
        (["--ca", "{ca}", "--key", "{dhcp}"], "the server does not let us hear answers at"),
        (["--key", "{key}"], "there is no CA to check its certificate with"),
        (["--ca", "{other}", "--key", "{key}"], "its certificate is refused"),
    ],
)
def test_who_proves_nothing_is_not_let_in(head: Head, tmp_path: Path, arguments: list[str], complaint: str) -> None:
    Key.new().write(tmp_path / "stranger")
    certificate, _ = ca.new_authority(datetime.now(UTC))
    (tmp_path / "other").write_bytes(Trust(certificate.decode()).dump())
    there = {
        "ca": head.access.ca,
        "key": head.access.key,
        "dhcp": Layout(head.state).bus_seed(Service.DHCP),
        "stranger": tmp_path / "stranger",
        "other": tmp_path / "other",
    }
    refused = head.try_shoal("--nats", head.nats, *(word.format(**there) for word in arguments), "node", "list")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert complaint.lower() in refused.stderr.lower()
    assert refused.stderr.count("\n") == 1


def test_who_may_not_read_the_key_is_told_what_to_do(head: Head, tmp_path: Path) -> None:
    key = tmp_path / "key"
    Key.new().write(key)
    os.chown(key, 65534, 65534)
    # Root without its powers: whoever else it were, could perhaps not read a checkout that lies in root's home.
    command = head.space.command(
        ["setpriv", "--bounding-set=-all", "--", str(SHOAL), "--key", str(key), "node", "list"]
    )
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, env=head.environment, check=False)
    assert refused.returncode == 1
    assert f"cannot read the key {key}: Permission denied. Run this as root on the head" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_no_secret_leaves_its_file(head: Head) -> None:
    files = Layout(head.state)
    seeds = [Key.read(files.seed(seed)).seed.encode() for seed in layout.SEEDS]
    told = [run(head.space, "ps", "-eww", "e", "-o", "pid=,args=").encode(), head.log.read_bytes()]
    told += [path.read_bytes() for path in head.state.rglob("*") if path.is_file() and files.keys not in path.parents]
    assert any(b"shoal-dhcp" in text and b"SHOAL_KEY=" in text for text in told)
    assert not [seed for seed in seeds if any(seed in text for text in told)]


def test_apply_is_idempotent_and_export_gives_it_back(head: Head, config: Path) -> None:
    assert "nothing to change" in head.shoal("apply", "-f", str(config))
    exported = head.shoal("export")
    assert "nothing to change" in head.shoal("apply", "-f", "-", "--prune", "-y", stdin=exported)
    told = head.shoal("apply", "-f", "-", "--dry-run", stdin=exported.replace("10.77.0.12", "10.77.0.99"))
    assert told == "~ node n002\n    address: 10.77.0.12 → 10.77.0.99\n1 record changed (dry run: nothing stored)\n"
    assert head.shoal("export") == exported


def test_records_are_added_set_shown_and_removed(head: Head) -> None:
    head.shoal("node", "add", "n003", "mac=52:54:00:77:00:13", "address=10.77.0.13", "boot.loader=ipxe")
    assert "boot.loader: ipxe → pxelinux" in head.shoal("node", "set", "n003", "boot.loader=pxelinux")
    shown = json.loads(head.shoal("node", "show", "n003", "-o", "json"))["n003"]
    loader = next(value for value in shown if value["field"] == "boot.loader")
    assert (loader["value"], loader["source"]) == ("pxelinux", "host n003")
    refused = head.try_shoal("node", "add", "n004", "mac=52:54:00:77:00:13", "address=10.77.0.14")
    assert refused.returncode == 1
    assert "52:54:00:77:00:13" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert head.try_shoal("node", "rm", "n003").returncode == 1
    assert "1 record removed" in head.shoal("node", "rm", "n003", "-y")
    assert "n003" not in head.shoal("node", "list")


def test_a_template_in_use_stays(head: Head) -> None:
    refused = head.try_shoal("template", "rm", "compute", "-y")
    assert refused.returncode == 1
    assert "n001" in refused.stderr


def test_a_node_that_never_booted(head: Head) -> None:
    why = head.try_shoal("boot", "why", "n001")
    assert why.returncode == 1
    assert "no boot is known of n001: its firmware never asked for a loader" in why.stderr
    assert [state["state"] for state in json.loads(head.shoal("node", "status", "-o", "json"))] == ["unknown"] * 2
    executed = head.try_shoal("exec", "n[001-002]", "--timeout", "2", "--", "true")
    assert executed.returncode == 1
    assert "failed on n[001-002] (2 of 2)" in executed.stderr
    assert executed.stdout == "--- n[001-002] (2): not up: it never booted\n"


def test_an_automatic_build_that_failed_is_seen_with_its_reason(head: Head) -> None:
    """There is no module here to build anything from."""
    head.shoal("image", "add", "bare", "flavor=bookworm", "version=1.0")
    head.shoal("rootfs", "add", "motd")

    def state() -> str:
        told: str = json.loads(head.shoal("image", "list", "-o", "json"))["bare"]["release"]["state"]
        return told

    wait_for(lambda: state().startswith("build failed"), head)
    assert "holds no module core for bookworm 1.0" in head.shoal("image", "list")
    assert "not committed" in head.shoal("rootfs", "list")
    assert "not committed" in head.shoal("rootfs", "show", "motd")
    refused = head.try_shoal("image", "build", "N_X")
    assert (refused.returncode, "'N_X' is not a name" in refused.stderr) == (2, True)
    head.shoal("image", "rm", "bare", "-y")
    head.shoal("rootfs", "rm", "motd", "-y")


def test_a_second_up_on_the_same_state_is_refused(head: Head) -> None:
    second = head.try_shoal("up", "--interface", "br0")
    assert second.returncode == 1
    assert "another `shoal up`" in second.stderr


def test_a_second_head_on_the_same_machine_is_refused(head: Head, tmp_path: Path) -> None:
    second = head.try_shoal("up", "--interface", "br0", "--state", str(tmp_path / "other"))
    assert (second.returncode, second.stdout) == (1, "")
    server = processes(head)["nats-server"]
    assert f"tcp 127.0.0.1:8222 (the bus server's health) by process {server} (nats-server)" in second.stderr
    assert all(f":{port} (" in second.stderr for port in (4222, 9101, 9109, 69, 8080, 8081, 8082))
    assert second.stderr.count("\n") == 1


def test_a_killed_service_and_a_killed_bus_come_back(head: Head) -> None:
    for name in ("shoal-registry", "nats-server"):
        before = processes(head)[name]
        run(head.space, "kill", "-9", str(before))
        wait_for(partial(restarted, head, name, before), head)
    wait_for(lambda: head.try_shoal("node", "list").returncode == 0, head)
    assert "n001" in head.shoal("node", "list")


def restarted(head: Head, name: str, before: int) -> bool:
    return processes(head).get(name, before) != before


def test_nobody_tried_what_it_may_not(head: Head) -> None:
    """After all that the tests above asked for, but what one of them tried in the name of dhcp."""
    logs = [*(head.state / "log").iterdir()]
    assert len(logs) == len(Service) + 2
    refused = [line for log in logs for line in log.read_text().splitlines() if re.search("(?i)denied|violation", line)]
    assert [line for line in refused if ":shoal-cli" not in line or "_INBOX.operator." not in line] == []


def test_it_drains_and_keeps_what_it_was_told(space: Namespace, tmp_path: Path) -> None:
    with Namespace() as own:
        Lan(own, "br0", "10.77.0.1/24")
        head = Head(own, "br0", tmp_path / "state").start()
        head.shoal("apply", "-f", "-", stdin=CLUSTER)
        began = time.monotonic()
        assert head.stop() == 0
        assert time.monotonic() - began < 15
        assert processes(head) == {}
        assert "killed" not in head.log.read_text()
        head.start()
        assert "n002" in head.shoal("node", "list")
        assert "stopped the head" in head.shoal("down")
        assert head.process.process.wait(5) == 0
        head.start()
        assert "but nodes are told" not in head.log.read_text()
        head.shoal("network", "set", "boot", "head=10.77.0.9")
        log = tmp_path / "state" / "log" / "dhcp.log"
        wait_for(lambda: "dhcp.head_not_here" in log.read_text(), head)
        assert head.stop() == 0
        head.start()
        wait_for(
            lambda: "runs at 10.77.0.1 (br0), but nodes are told that it is at 10.77.0.9" in head.log.read_text(), head
        )
        head.process.signal(signal.SIGKILL)
        wait_for(lambda: processes(head) == {}, head)
        head.stop()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--interface", "nope0"], "no interface 'nope0'"),
        (["--interface", "lo", "--config", "{config}"], "is 10.77.0.1, but interface lo has 127.0.0.1"),
        (["--interface", "lo"], "lo is a loopback"),
        (["--interface", "bare0"], "interface bare0 has no IPv4 address"),
        (["--interface", "br0", "--config", "/nonexistent.yaml"], "cannot read /nonexistent.yaml"),
        (["--interface", "br0", "--state", "/proc/nope"], "cannot use /proc/nope as state directory"),
    ],
)
def test_what_cannot_run_is_told_in_one_sentence(
    space: Namespace, config: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    run(space, "ip", "link", "add", "bare0", "type", "bridge", check=False)
    told = [argument.format(config=config) for argument in arguments]
    done = subprocess.run(
        space.command([str(SHOAL), "up", *told]),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SHOAL_STATE": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_it_is_for_root_alone(space: Namespace) -> None:
    # Nobody in a user namespace of its own, yet allowed to read a checkout that lies in root's home.
    command = ["unshare", "--user", "--", str(SHOAL), "up", "--interface", "br0"]
    done = subprocess.run(space.command(command), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "needs root" in done.stderr
