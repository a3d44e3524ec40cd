"""Who is let in, with real nodes: an unexpected boot waits for an operator's word, an announced one does not."""

import textwrap
import time
from collections.abc import Iterator

import pytest

from lab.boots import BootLab, Running
from shoal_model.messages import Status
from shoal_model.subjects import Stage

pytestmark = [pytest.mark.boot, pytest.mark.e2e]

NODE = "stranger"
TRUE_OF_A_THIEF = """\
import asyncio, ssl
from pathlib import Path
from shoal_bus.connection import Credentials, connect
from shoal_bus.errors import Unavailable
from shoal_execd import cmdline
from shoal_identity import trust
from shoal_identity.keys import Key
line = cmdline.parse(Path("/proc/cmdline").read_text())
tls = trust.parse(Path("/run/shoal/ca.crt").read_bytes(), line.ca).client_context()
async def try_it(inbox):
    own = Credentials(key=Key.new(), token=line.token, tls=tls, inbox_prefix=inbox)
    try:
        await connect(list(line.nats), name="thief", credentials=own, timeout=4)
    except Unavailable as error:
        print("refused:", error)
    else:
        print("let in")
asyncio.run(try_it(f"_INBOX.node.{line.node}"))
"""


@pytest.fixture(scope="module")
def admitted(boots: BootLab) -> Iterator[Running]:
    """A node whose boot nobody expected, and that an operator admitted."""
    with boots.on(boots.register(NODE), armed=False) as running:
        refused = running.until(Stage.STAGE1_BUS, wanted=lambda event: event.status is Status.FAILED)
        assert refused.reason is not None
        assert f"shoal quarantine admit {NODE}" in refused.reason
        running[NODE].wait_for("the head does not let this node in", 60)
        [waiting] = boots.json("quarantine", "list")
        assert (waiting["node"], waiting["state"]) == (NODE, "waiting")
        assert not running.reached(NODE, Stage.IMAGE_SOURCE)
        boots.head.shoal("quarantine", "admit", NODE)
        running.until(Stage.SYSTEMD_RUNNING)
        yield running


def test_the_admitted_node_is_up_and_has_its_options(boots: BootLab, admitted: Running) -> None:
    assert boots.says(NODE, "cat", "/etc/hostname") == f"{NODE}\n"
    [keys] = boots.json("node", "keys", NODE)
    assert keys["node"] == NODE
    assert not keys["revoked"]


def test_its_key_is_in_memory_and_roots_alone(boots: BootLab, admitted: Running) -> None:
    assert boots.says(NODE, "stat", "-c", "%a %U", "/run/shoal/secret/key") == "600 root\n"
    assert boots.says(NODE, "stat", "-f", "-c", "%T", "/run/shoal/secret") == "ramfs\n"


def test_its_command_line_opens_nothing_any_more(boots: BootLab, admitted: Running) -> None:
    said = boots.says(NODE, "/usr/lib/shoal/bin/python3", "-c", textwrap.dedent(TRUE_OF_A_THIEF))
    assert said.startswith("refused:")
    assert "Authorization Violation" in said
    story = boots.story(NODE)
    assert any("another key" in event.get("reason", "") for event in story["events"])


def test_no_log_of_the_head_holds_its_token_or_its_seed(boots: BootLab, admitted: Running) -> None:
    words = boots.says(NODE, "cat", "/proc/cmdline").split()
    [token] = [word.removeprefix("shoal.token=") for word in words if word.startswith("shoal.token=")]
    state = boots.head.state
    logs = [path for folder in ("log", "logs") for path in (state / folder).rglob("*") if path.is_file()]
    assert any(path.parent.name == NODE for path in logs)
    assert [path for path in (*logs, boots.head.log) if token in path.read_text(errors="replace")] == []
    nodes_own = boots.says(NODE, "sh", "-c", "cat /var/log/shoal/*.log; journalctl --no-pager -u shoal-execd")
    assert token not in nodes_own
    assert "SUA" not in nodes_own


def test_a_reboot_that_it_announces_is_expected(boots: BootLab, admitted: Running) -> None:
    before = boots.story(NODE)["boot"]
    boots.head.shoal("exec", NODE, "--", "systemctl", "reboot", check=False)
    admitted.until(Stage.SYSTEMD_RUNNING, wanted=lambda event: event.boot not in (None, before))
    assert boots.says(NODE, "cat", "/etc/hostname") == f"{NODE}\n"


def test_revoking_its_key_cuts_it_off(boots: BootLab, admitted: Running) -> None:
    boots.head.shoal("node", "revoke", NODE)
    [keys] = boots.json("node", "keys", NODE)
    assert keys["revoked"]
    deadline = time.monotonic() + 30
    while boots.head.try_shoal("exec", NODE, "--", "true").returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
