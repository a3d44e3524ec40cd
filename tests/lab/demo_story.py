"""The inner half of the demo: a head, an image, two nodes, the proof. Everything it does, an operator can type."""

import asyncio
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import click

from lab.demo_cluster import CLUSTER, NODES, Expected, write_trees
from lab.demo_report import Report, options_of, stage_table
from lab.head import SHOAL, Head
from lab.net import Lan
from lab.node import Machine, Nic, VirtualNode
from lab.space import Here, LabError, run
from shoal_cli.commands.boot import follow
from shoal_cli.session import Access, over_nats
from shoal_model.subjects import Stage

_BOOT_SECONDS = 600.0
_EVERYBODY = "n[001-002]"
_MOST_SENT = 1.3


def heading(text: str) -> None:
    """Say what comes now."""
    click.echo(click.style(f"\n━━ {text}", fg="cyan", bold=True))


class Operator:
    """Somebody who types commands and sees what they print."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def types(self, *arguments: str) -> None:
        """Run a command with its output shown. Raises LabError if it fails."""
        self._show(arguments)
        done = subprocess.run([SHOAL, *arguments], env=self._head.environment, check=False)
        if done.returncode != 0:
            raise LabError(f"shoal {' '.join(arguments)}: exit status {done.returncode}")

    def asks(self, *arguments: str) -> object:
        """What a command says as JSON; nothing is shown."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        return json.loads(self._head.shoal(*arguments[:end], "-o", "json", *arguments[end:]))

    @staticmethod
    def _show(arguments: tuple[str, ...]) -> None:
        click.echo(click.style(f"$ shoal {shlex.join(arguments)}", dim=True))


def tell(folder: Path, *, modules: Path, store: Path) -> int:
    """The whole story; 0 if both nodes are up and everything they show is as it should be."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    here = Here()
    run(here, "ip", "link", "set", "lo", "up")
    run(here, "mount", "-t", "sysfs", "sysfs", "/sys")
    boot, storage = Lan(here, "br0", "10.77.0.1/24"), Lan(here, "br1")

    heading("a head: the bus and every service, in a network namespace of its own")
    head = Head(here, "br0", folder / "state", {"SHOAL_MODULES": str(modules), "SHOAL_STORE": str(store)})
    click.echo(click.style(f"$ shoal up --interface br0 --state {head.state}", dim=True))
    with head.start():
        click.echo("ready")
        _configure(head, folder)
        with _machines(folder, boot, storage) as nodes:
            problems = _boot(head, nodes)
            if not problems:
                problems = _prove(head, folder)
    for problem in problems:
        click.echo(click.style(f"✗ {problem}", fg="red"), err=True)
    if not problems:
        click.echo(click.style(f"\n{', '.join(NODES)} up", fg="green", bold=True))
    return 1 if problems else 0


def _configure(head: Head, folder: Path) -> None:
    operator = Operator(head)
    heading("the cluster, in one file")
    (folder / "cluster.yaml").write_text(CLUSTER)
    click.echo(CLUSTER.rstrip())
    operator.types("apply", "-f", str(folder / "cluster.yaml"))
    heading("what each node gets on top: a tree of files, with a script that runs before systemd")
    for name in write_trees(head.state / "root-fs"):
        operator.types("rootfs", "commit", name)
    heading("its image: modules, assembled into squashfs, kernel and initrd")
    operator.types("image", "build", "compute", "--wait")
    heading("what the nodes will get, before they boot")
    for name in NODES:
        operator.types("preview", name)
    heading("the boots that are expected: nobody else is let in")
    operator.types("boot", "arm", _EVERYBODY)


class _machines:  # noqa: N801 - a context manager, used like a function
    """The two nodes; they are off until `start`, and off again at the end."""

    def __init__(self, folder: Path, boot: Lan, storage: Lan) -> None:
        self.nodes = {}
        for number, (name, node) in enumerate(NODES.items()):
            nics = [Nic(boot.tap(f"tap{number}"), node.mac)]
            if node.second_mac is not None:
                nics.append(Nic(storage.tap(f"tap{number}b"), node.second_mac, "e1000"))
            self.nodes[name] = VirtualNode(Here(), Machine(name, tuple(nics)), folder)

    def __enter__(self) -> dict[str, VirtualNode]:
        return self.nodes

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.stop()


def _boot(head: Head, nodes: dict[str, VirtualNode]) -> list[str]:
    """Switch both on at once and show their stages until both run systemd. What went wrong."""
    heading("two machines are switched on")
    click.echo(click.style(f"$ shoal boot watch {_EVERYBODY} --until {Stage.SYSTEMD_RUNNING}", dim=True))

    def on() -> None:
        for node in nodes.values():
            node.start()

    missing = asyncio.run(_watched(head.access, list(nodes), on, lambda: all(n.running for n in nodes.values())))
    for name in missing:
        heading(f"{name} is not up")
        click.echo(head.try_shoal("boot", "why", name, "--lines", "40").stdout)
        click.echo(f"the end of its console ({nodes[name].console}):\n{nodes[name].tail()}")
    return [f"{name} did not reach {Stage.SYSTEMD_RUNNING}" for name in missing]


async def _watched(access: Access, names: list[str], on: Callable[[], None], alive: Callable[[], bool]) -> list[str]:
    async def watch() -> list[str]:
        async with over_nats(access)() as bus:
            return await follow(bus, names, until=Stage.SYSTEMD_RUNNING, timeout=_BOOT_SECONDS, began=on)

    watching = asyncio.create_task(watch())
    await asyncio.wait({watching}, timeout=10)  # the machines are on by then
    while not watching.done():
        if not alive():
            watching.cancel()
            raise LabError("a virtual machine ended by itself; see build/demo/*.qemu.log and *.console.log")
        await asyncio.wait({watching}, timeout=1)
    return watching.result()


def _prove(head: Head, folder: Path) -> list[str]:
    """Let the running nodes show what they are; write the report. What is not as it should be."""
    operator = Operator(head)
    heading("the proof, from inside both running systems")
    for command in ("hostname", "ip -br address", "cat /etc/motd", "systemctl is-system-running --wait"):
        operator.types("exec", _EVERYBODY, "--", *command.split())
    report = Report({name: operator.asks("boot", "why", name) for name in NODES})
    problems = []
    for name, expected in NODES.items():
        options = options_of(operator.asks("preview", name))
        problems += _check(operator, name, expected) + _same_bytes(operator, name, options.files)
        report.options[name] = options
    problems += _one_session(operator, report)
    operator.types("session", "list")
    operator.types("node", "status")
    (folder / "report.json").write_text(json.dumps(report.data(operator.asks("node", "status")), indent=2) + "\n")
    heading("how long each stage took, in seconds since the first DHCP packet")
    for line in stage_table(report.boots):
        click.echo(line)
    return problems


def _check(operator: Operator, name: str, expected: Expected) -> list[str]:
    """Whether a node runs with the options that are its own."""
    wanted = {
        "hostname": [expected.name],
        "ip -br address": [*expected.addresses],
        "cat /etc/motd": [expected.greeting],
    }
    problems = []
    for command, parts in wanted.items():
        said = _said(operator, name, *command.split())
        problems += [f"{name}: `{command}` does not say {part!r} but {said!r}" for part in parts if part not in said]
    return problems


def _same_bytes(operator: Operator, name: str, files: dict[str, str]) -> list[str]:
    """Whether the node has the very bytes that the preview showed before it booted."""
    sums = _said(operator, name, "sha256sum", *files)
    there = {line.split("  ", 1)[1]: line.split("  ", 1)[0] for line in sums.splitlines() if "  " in line}
    wrong = [path for path, digest in files.items() if there.get(path) != digest]
    if not wrong:
        click.echo(f"{name}: {len(files)} files have the SHA-256 that the preview showed")
    return [f"{name}: {path} is not what the preview showed" for path in wrong]


def _one_session(operator: Operator, report: Report) -> list[str]:
    """Whether both nodes had their image from one multicast session that sent little more than the image."""
    sessions = operator.asks("session", "list")
    assert isinstance(sessions, list)
    report.sessions = sessions
    if len(sessions) != 1:
        return [f"the image took {len(sessions)} multicast sessions instead of one"]
    ratio = sessions[0]["sent"] / sessions[0]["size"]
    problems = [] if ratio <= _MOST_SENT else [f"multicast sent {ratio:.2f} times the image, more than {_MOST_SENT}"]
    if sessions[0]["complete"] != len(NODES):
        problems.append(f"{sessions[0]['complete']} of {len(NODES)} nodes have the whole image from multicast")
    return problems


def _said(operator: Operator, name: str, *command: str) -> str:
    [result] = _results(operator.asks("exec", name, "--", *command))
    return str(result["stdout"])


def _results(answer: object) -> list[dict[str, object]]:
    if not isinstance(answer, list):
        raise LabError(f"exec answered {answer!r}")
    return answer
