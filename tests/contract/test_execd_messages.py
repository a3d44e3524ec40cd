"""Messages made by hand on the node against the models, both ways; and what of Python a node needs."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import shoal_execd
from lab.nats_server import NatsServer
from shoal_bus import codec
from shoal_bus.api import Endpoint
from shoal_bus.connection import connect
from shoal_bus.nats import NatsBus
from shoal_execd import handover, vitals
from shoal_execd.commands import Command, execute, parse_command
from shoal_execd.configure import await_options
from shoal_execd.handover import BootState
from shoal_execd.head import Head, ask_orders
from shoal_execd.identity import Identity
from shoal_execd.journal import Journal
from shoal_execd.landing import Slot
from shoal_execd.multicast import Multicast
from shoal_execd.node_options import parse_options
from shoal_execd.orders import parse_orders
from shoal_execd.rebooting import announce
from shoal_execd.timeline import DEGRADED, Timeline
from shoal_identity import signatures
from shoal_identity.keys import Key
from shoal_identity.statements import say_reboot
from shoal_identity.trust import Trust
from shoal_mcast.session import Join
from shoal_model import subjects
from shoal_model.messages import (
    AnnounceRebootReply,
    AnnounceRebootRequest,
    AnnounceReply,
    AnnounceRequest,
    BootEvent,
    BootReply,
    BootRequest,
    Empty,
    Heartbeat,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    LogLines,
    NodeExec,
    NodeExecReply,
    NodeOptions,
    OptionAction,
    OptionArchive,
    OptionFile,
    SignedManifest,
)
from shoal_model.records import BootStyle, Geometry, ImageManifest, ModuleVersion, StoredFile
from shoal_model.subjects import Service, Stage

DIGEST = "ab" * 32
BUILDER = Key.new()
STATE = BootState("n001", "b1", ["nats://127.0.0.1:4222"], "127.0.0.1", "10.0.0.2", ["http://h"], DIGEST, "25%", "/log")
MANIFEST = ImageManifest(
    image="compute",
    flavor="bookworm",
    version="1.0",
    identity=DIGEST,
    content=DIGEST,
    modules=[ModuleVersion(name="core", version="1.0.0", sha256=DIGEST)],
    kernel_version="6.1",
    squashfs=StoredFile(sha256=DIGEST, size=5000),
    kernel=StoredFile(sha256=DIGEST, size=1),
    initrd=StoredFile(sha256=DIGEST, size=1),
    geometry=Geometry(symbol_size=64, block_symbols=16),
    blocks=[DIGEST] * 5,
)
ORDERS = BootReply(
    node="n001",
    name="n001",
    manifest=SignedManifest(
        body=MANIFEST.body(), key=BUILDER.public, signature=signatures.sign(MANIFEST.body(), BUILDER)
    ),
    style=BootStyle.RORAM,
    root_size="50%",
    tmp_size="25%",
    sources=["https://10.77.0.1:8081", "http://10.77.0.1:8080"],
)
JOIN = JoinReply(
    session=1,
    source="10.77.0.1",
    group="239.1.2.3",
    port=5000,
    control_port=5001,
    receiver=7,
    size=5000,
    symbol_size=64,
    block_symbols=16,
    http="http://10.77.0.1:8081",
)
OPTIONS = NodeOptions(
    node="n001",
    generation=DIGEST,
    files=[OptionFile(path="/etc/x", sha256=DIGEST, size=3)],
    archives=[OptionArchive(name="site", archive=StoredFile(sha256=DIGEST, size=10240))],
    actions=[OptionAction(verb="hostname", arguments=["n001"])],
    sources=["https://10.77.0.1:8082"],
)


def over_the_wire(message: BaseModel) -> dict[str, Any]:
    return codec.unpack(codec.encode(message))


def test_events_and_log_lines() -> None:
    timeline = Timeline("n001", "b1", Journal("stage1", []))
    for stage in Stage:
        timeline.event(stage, {"number": 1, "ratio": 0.5, "text": "x", "yes": True}, status=DEGRADED, reason="y" * 9000)
    rest = timeline.rest()
    for (subject, message), stage in zip(rest, Stage, strict=False):
        event = codec.decode(codec.pack(message), BootEvent)
        assert subject == subjects.boot_event("n001", stage)
        assert (event.stage, event.details["ratio"], event.reason) == (stage, 0.5, "y" * 4000)
        assert abs((datetime.now(UTC) - event.at).total_seconds()) < 60
    subject, message = rest[len(Stage)]
    assert subject == subjects.node_log("n001")
    lines = codec.decode(codec.pack(message), LogLines)
    assert (lines.stage, lines.sequence) == ("stage1", 0)
    assert sum(len(codec.decode(codec.pack(m), LogLines).lines) for s, m in rest if s == subject) == len(Stage)


def test_heartbeat(tmp_path: Path) -> None:
    (tmp_path / handover.GENERATION_FILE).write_text(DIGEST)
    beat = codec.decode(codec.pack(vitals.heartbeat(STATE, tmp_path)), Heartbeat)
    assert (beat.node, beat.image, beat.generation) == ("n001", DIGEST, DIGEST)
    assert beat.memory_total > beat.memory_available > 0


async def test_a_command_and_its_answer() -> None:
    order = NodeExec(id="c1", command=["echo", "x"], timeout=10, output=1000)
    command = parse_command(over_the_wire(order))
    assert command == Command("c1", ("echo", "x"), 10.0, 1000)
    older = {key: value for key, value in over_the_wire(order).items() if key != "output"}
    assert parse_command(older).output == NodeExec.model_fields["output"].default
    reply = codec.decode(codec.pack(await execute(command)), NodeExecReply)
    assert (reply.exit_code, reply.stdout, reply.error) == (0, b"x\n", None)


def test_orders_options_and_join_are_read_as_they_are_written() -> None:
    orders = parse_orders(over_the_wire(ORDERS), (BUILDER.public,))
    assert (orders.manifest.sha256, orders.manifest.geometry.blocks, orders.sources) == (
        DIGEST,
        5,
        tuple(ORDERS.sources),
    )
    options = parse_options(over_the_wire(OPTIONS), "n001")
    assert (options.generation, options.files[0].path, options.files[0].mode) == (DIGEST, "/etc/x", 0o644)
    assert options.archives[0].blob.size == 10240
    assert options.actions[0].arguments == ("n001",)
    assert Join.from_map(over_the_wire(JOIN)).geometry() == orders.manifest.geometry


async def test_every_request_of_a_node_fits_its_model(bus: NatsBus, nats_server: NatsServer, tmp_path: Path) -> None:
    """A service on the real bus refuses what does not fit its model; here each answers, and takes what it was told."""
    heard: list[BaseModel] = []

    def answers(subject: str, request: type[BaseModel], reply: BaseModel) -> Endpoint[Any]:
        async def handler(subject: str, message: BaseModel) -> BaseModel:
            heard.append(message)
            if isinstance(message, AnnounceRequest):
                await bus.publish(subjects.node_topic(subjects.node_in(subject), "options"), OPTIONS)
            return reply

        return Endpoint(subject, request, handler)

    every = subjects.rpc_of_every_node
    endpoints = [
        answers(every(Service.REGISTRY, "boot"), BootRequest, ORDERS),
        answers(every(Service.EXECD_CONFIG, "announce"), AnnounceRequest, AnnounceReply(generation=DIGEST)),
        answers(every(Service.MCASTD, "join"), JoinRequest, JOIN.model_copy(update={"size": 1})),
        answers(every(Service.MCASTD, "leave"), LeaveRequest, Empty()),
        answers(
            every(Service.AUTH, "announce-reboot"),
            AnnounceRebootRequest,
            AnnounceRebootReply(until=datetime(2026, 11, 20, tzinfo=UTC)),
        ),
    ]
    await bus.serve("head", "0.1.0", endpoints)
    node, key = await connect([nats_server.url], name="n001", timeout=10), Key.new()
    timeline = Timeline("n001", "b1", Journal("stage1", []))
    try:
        orders = await ask_orders(node, timeline, (BUILDER.public,))
        assert orders.manifest.image == "compute"
        assert (await await_options(node, timeline)).generation == DIGEST
        with Slot(tmp_path / "image", lambda size: None) as slot:
            reason = await Multicast(node, "n001", "b1", "10.0.0.2").receive(slot.open(orders.manifest), DIGEST)
        assert reason is not None
        assert "geometry" in reason
        await announce(node, Head("n001", [], Identity(key, Trust(""))), "b1", timeline.journal)
        assert "expects it until 2026-11-20" in timeline.journal.batch()[-1]
    finally:
        await node.close()
    assert heard == [
        BootRequest(boot="b1"),
        AnnounceRequest(boot="b1", release="0.1.0"),
        JoinRequest(boot="b1", image=DIGEST, address="10.0.0.2", missing=5),
        AnnounceRebootRequest(boot="b1", key=key.public, signature=say_reboot("n001", "b1", key)),
    ]


_AS_ON_A_NODE = """
import importlib, pkgutil, sys

class NotThere:
    there = {"shoal_execd", "shoal_mcast", "shoal_bus", "shoal_model", "shoal_identity", "nats", "msgpack", "nacl",
             "_cffi_backend", *sys.stdlib_module_names}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.there:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotThere())
import shoal_execd
for module in pkgutil.walk_packages(shoal_execd.__path__, "shoal_execd."):
    importlib.import_module(module.name)
print("pydantic" in sys.modules, "shoal_model.records" in sys.modules, "shoal_bus.connection" in sys.modules)
"""


def test_a_node_needs_nothing_but_the_standard_library_nats_msgpack_and_nacl() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AS_ON_A_NODE], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["False", "False", "True"]


@pytest.mark.parametrize("name", ["init", "init.shoal", "shoal-execd"])
def test_entry_points_run_on_the_nodes_own_python(name: str) -> None:
    path = Path(shoal_execd.__file__).parent / "data" / name
    assert path.read_text().startswith("#!/usr/lib/shoal/bin/python3 -ISB\n")
    compile(path.read_text(), name, "exec")
    assert path.stat().st_mode & 0o111
