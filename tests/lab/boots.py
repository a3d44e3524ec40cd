"""A head that boots virtual nodes: services, an image, machines, and what all of them say when something goes wrong."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from lab.head import Head
from lab.net import Lan
from lab.node import Firmware, Machine, Nic, VirtualNode
from lab.space import LabError, Namespace, run
from lab.witness import Witness
from shoal_model.messages import BootEvent, Status
from shoal_model.subjects import Stage

BOOT = 300.0
"""Seconds that a boot may take on a busy machine; alone on it, half a minute is enough."""
BUILD = 420.0
IMAGE = "compute"
_CACHE = Path(__file__).parents[2] / ".cache"
_MODULES = _CACHE / "modules"
_PACKAGES = ("shoal-module-core-*.deb", "shoal-runtime_*.deb")
_ADDRESS = "10.77.0.1/24"
_BASE = f"""\
networks:
  boot: {{cidr: 10.77.0.0/24, head: 10.77.0.1, boot: true, domain: lab.shoal}}
  storage: {{cidr: 10.78.0.0/24}}
images:
  {IMAGE}: {{flavor: bookworm, version: "1.0", modules: [core]}}
templates:
  compute: {{image: {IMAGE}, boot: {{parameters: "console=ttyS0"}}}}
"""


class BootLab:
    """A head in a namespace of its own, `shoal up` with a built image; nodes are registered and switched on by tests.

    Use it as a context manager.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._taps = self._nodes = 0

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.space = stack.enter_context(Namespace())
            self.lan, self.storage = Lan(self.space, "br0", _ADDRESS), Lan(self.space, "br1")
            store = self.folder / "store"
            _copy_builds(_CACHE / "store", store)
            stack.callback(shutil.rmtree, store, ignore_errors=True)
            settings = {
                "SHOAL_MODULES": str(modules()),
                "SHOAL_STORE": str(store),
                "SHOAL_IMAGES": str(self.folder / "images"),
            }
            self.head = Head(self.space, "br0", self.folder / "state", settings)
            stack.enter_context(self.head.start())
            self.witness = stack.enter_context(Witness(self.space, self.head.access))
            with self._telling({}):
                self.apply(_BASE)
                self.image = self.build(IMAGE)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- the cluster ------------------------------------------------------------------------------------------

    def apply(self, document: str) -> None:
        """Add to the configuration, as `shoal apply` does."""
        self.head.shoal("apply", "-f", "-", stdin=document)

    def register(
        self, name: str, *fields: str, firmware: Firmware = Firmware.BIOS, model: str = "virtio-net-pci"
    ) -> Machine:
        """Add a node of template `compute` (or as `fields` say), with a MAC and an address of its own; its machine."""
        self._nodes += 1
        number = 100 + self._nodes
        mac, address = f"52:54:00:77:01:{number:02x}", f"10.77.0.{number}"
        self.head.shoal("node", "add", name, f"mac={mac}", f"address={address}", "template=compute", *fields)
        return Machine(name, (Nic(self.tap(), mac, model),), firmware=firmware)

    def build(self, image: str) -> Path:
        """Have an image built, if it is not; its squashfs in the store of this head."""
        told = self.head.shoal("image", "build", image, "--wait", timeout=BUILD)
        published = re.search(r"is published: ([0-9a-f]{12})", told)
        if published is None:
            raise LabError(f"the build of image {image} ended without a digest: {told}")
        [blob] = (self.folder / "store" / "blobs").glob(f"{published[1]}*")
        return blob

    def tap(self, lan: Lan | None = None) -> str:
        """A port for a NIC, in the boot network if no other is named."""
        self._taps += 1
        return (lan or self.lan).tap(f"tap{self._taps}")

    # --- what the operator is told ----------------------------------------------------------------------------

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 - parsed JSON
        """What a command says as JSON, whatever its exit status."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        said = self.head.try_shoal(*arguments[:end], "-o", "json", *arguments[end:])
        try:
            return json.loads(said.stdout)
        except ValueError:
            raise LabError(f"shoal {' '.join(arguments)}: {said.stderr.strip() or said.stdout}") from None

    def story(self, node: str) -> Any:  # noqa: ANN401 - parsed JSON
        """`shoal boot why`: boot id, events, verdict."""
        return self.json("boot", "why", node)

    def says(self, node: str, *command: str) -> str:
        """What a command prints on a node. Raises LabError if it fails there."""
        [result] = self.json("exec", node, "--", *command)
        if result["exit_code"] != 0:
            raise LabError(f"{node}: {' '.join(command)}: {result}")
        return str(result["stdout"])

    def json_on(self, node: str, *command: str) -> Any:  # noqa: ANN401 - parsed JSON
        """What a command on a node prints as JSON."""
        return json.loads(self.says(node, *command))

    # --- machines ---------------------------------------------------------------------------------------------

    @contextmanager
    def on(self, *machines: Machine, armed: bool = True) -> Iterator["Running"]:
        """These machines, switched on at once, their boots expected unless `armed` is False. What goes wrong meanwhile
        is raised after the lab told all it knows.
        """
        nodes = {machine.name: VirtualNode(self.space, machine, self.folder) for machine in machines}
        try:
            with self._telling(nodes):
                running = Running(self, nodes, self.witness.count)
                if armed:
                    self.arm(*nodes)
                for node in nodes.values():
                    node.start()
                yield running
        finally:
            for node in nodes.values():
                node.stop()

    def arm(self, *names: str) -> None:
        """Expect a boot of each of these that is a node: strangers are switched on, too."""
        known = self.json("node", "list")
        expected = [name for name in names if name in known]
        if expected:
            self.head.shoal("boot", "arm", ",".join(expected))

    @contextmanager
    def _telling(self, nodes: dict[str, VirtualNode]) -> Iterator[None]:
        try:
            yield
        except Exception:
            print(self.evidence(nodes))
            raise

    def evidence(self, nodes: dict[str, VirtualNode]) -> str:
        """The stories of these nodes, the ends of their consoles and of the logs of all services."""
        logs = sorted((self.head.state / "log").glob("*.log"))
        parts = [f"━━ shoal up\n{self.head.tail(25)}"]
        parts += [f"━━ {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-12:]) for log in logs]
        for name, node in nodes.items():
            why = self.head.try_shoal("boot", "why", name, "--lines", "30", timeout=30)
            parts.append(f"━━ {name}\n{why.stdout}{why.stderr}\n━━ console of {name}\n{node.tail(40)}")
        return "\n".join(parts)

    # --- faults -----------------------------------------------------------------------------------------------

    def kill(self, program: str) -> None:
        """`kill -9` of a program of the head, by its name; `shoal up` starts it again."""
        run(self.space, "kill", "-9", str(self.pid(program)))

    def hold_down(self, program: str, until: Callable[[], bool], seconds: float = 120.0) -> None:
        """Kill a program whenever it comes back, until something is so. Raises LabError if it is not in time."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise LabError(f"{program} was held down for {seconds:.0f} s in vain")
            for pid in self._pids(program):
                run(self.space, "kill", "-9", pid, check=False)
            time.sleep(0.05)

    def pid(self, program: str) -> int:
        """The process id of a program of the head, inside its namespace. Waits until there is one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := self._pids(program):
                return int(found[0])
            time.sleep(0.05)
        raise LabError(f"{program} does not run\n{self.head.tail()}")

    def _pids(self, program: str) -> list[str]:
        rows = [line.split() for line in run(self.space, "ps", "-eww", "-o", "pid=,args=").splitlines()]
        return [pid for pid, *words in rows if any(Path(word).name == program for word in words[:2])]


class Running:
    """Machines that are on. `since` is the place of their first event among all that the lab heard."""

    def __init__(self, lab: BootLab, nodes: dict[str, VirtualNode], since: int) -> None:
        self._lab, self.nodes, self._since = lab, nodes, since

    def __getitem__(self, name: str) -> VirtualNode:
        return self.nodes[name]

    def until(
        self,
        stage: Stage,
        *,
        node: str | None = None,
        wanted: Callable[[BootEvent], bool] = lambda event: event.status is not Status.FAILED,
        seconds: float = BOOT,
    ) -> BootEvent:
        """Wait until a node (the one there is, if none is named) has reached a stage. Raises LabError."""
        [name] = [node] if node else self.nodes

        def arrived(event: BootEvent) -> bool:
            return (event.node, event.stage) == (name, stage) and wanted(event)

        machine = self.nodes[name]
        event = self._lab.witness.wait(arrived, since=self._since, seconds=seconds, alive=lambda: machine.running)
        if event is None:
            state = "is on" if machine.running else "went off"
            raise LabError(f"{name} did not reach {stage} within {seconds:.0f} s; the machine {state}")
        return event

    def reached(self, node: str, stage: Stage) -> bool:
        """Whether a node has come to this stage since it was switched on."""
        return any(event.stage is stage for event in self._lab.witness.events(node, self._since))


def modules() -> Path:
    """Where the packages are that images are made of. Raises LabError if one is missing."""
    for pattern in _PACKAGES:
        if not list(_MODULES.glob(pattern)):
            raise LabError(f"there is no {pattern} in {_MODULES}: build it with `make images`")
    return _MODULES


def _copy_builds(cache: Path, store: Path) -> None:
    """Copy what earlier runs built: a copy, because tests damage it. Others may add and remove files meanwhile."""
    for part in ("blobs", "initrds", "manifests"):
        (store / part).mkdir(parents=True)
        for path in (cache / part).glob("[!.]*"):
            try:
                shutil.copy2(path, store / part)
            except FileNotFoundError:
                continue  # pruned meanwhile: then it is built anew here
