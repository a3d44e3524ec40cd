"""A service as a process: how it starts, tells of itself, and ends."""

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from lab.nats_server import NatsServer
from lab.secure import SecureServer
from shoal_bus.nats import NatsBus
from shoal_identity.keys import Key, Role
from shoal_model.messages import LogReply, LogRequest

TESTS = Path(__file__).resolve().parents[1]


class Running:
    """A small service, and where it serves its pages."""

    def __init__(self, process: Process, pages: str) -> None:
        self.process = process
        self.pages = pages
        self.log = ""

    async def until_logged(self, text: str) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while text not in self.log:
                line = await self.process.stderr.readline()
                assert line, f"ended without {text!r}: {self.log}"
                self.log += line.decode()

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            _, rest = await self.process.communicate()
        self.log += rest.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    async def page(self, name: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.pages}/{name}") as answer:
            return answer.status, await answer.text()


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts small services, and ends those that are left."""
    started: list[Running] = []

    async def begin(url: str, behaviour: str = "good", **variables: str) -> Running:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            pages = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "SHOAL_NATS": url, **variables}
        command = [sys.executable, "-m", "lab.small_service", "--metrics", pages, "--behaviour", behaviour]
        few_files = ["sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh"]
        process = await asyncio.create_subprocess_exec(*few_files, *command, env=environment, stderr=PIPE)
        started.append(Running(process, pages))
        return started[-1]

    yield begin
    for running in started:
        if running.process.returncode is None:
            running.process.kill()
            await running.ended()


async def test_it_answers_and_drains(nats_server: NatsServer, bus: NatsBus, start: Start) -> None:
    service = await start(nats_server.url, SHOAL_NAMES="a, b")
    await service.until_logged("service.ready")
    assert "small.names names=a,b" in service.log
    assert "small.files all=True core=0" in service.log
    assert "small.trust keys=None" in service.log
    assert "warning service.unauthenticated" in service.log
    assert await service.page("healthz") == (200, "ok\n")
    assert await service.page("readyz") == (200, "ok\n")
    asking = asyncio.create_task(bus.call("rpc.fleet.v1.log", LogRequest(node="n1"), LogReply))
    await service.until_logged("small.asked")
    service.process.send_signal(signal.SIGTERM)
    assert await service.ended() == 0
    assert (await asking).text == "n1"
    assert service.log.index("service.stopping") < service.log.index("small.ended connected=True")
    assert service.log.index("small.ended") < service.log.index("service.end status=0")


@pytest.mark.usefixtures("bus")
async def test_its_metrics_tell_of_readiness_and_of_the_bus(nats_server: NatsServer, start: Start) -> None:
    service = await start(nats_server.url)
    await service.until_logged("service.ready")
    nats_server.restart()
    await service.until_logged("bus.lost")
    await service.until_logged("bus.connected")
    status, text = await service.page("metrics")
    assert status == 200
    assert "shoal_ready 1.0" in text
    assert 'shoal_bus_problems_total{kind="lost_connections"} 1.0' in text


async def test_a_body_that_returns_leaves_the_service_up(nats_server: NatsServer, bus: NatsBus, start: Start) -> None:
    service = await start(nats_server.url, "return")
    await service.until_logged("service.ready")
    assert (await bus.call("rpc.fleet.v1.log", LogRequest(node="n1"), LogReply)).text == "n1"
    service.process.send_signal(signal.SIGINT)
    assert await service.ended() == 0


@pytest.mark.usefixtures("bus")
@pytest.mark.parametrize(("behaviour", "text"), [("crash", "broken at once"), ("crash-later", "broken later")])
async def test_a_task_that_crashes_ends_the_service(
    nats_server: NatsServer, start: Start, behaviour: str, text: str
) -> None:
    service = await start(nats_server.url, behaviour)
    assert await service.ended() == 1
    assert f'service.failed error="{text}"' in service.log
    assert f"    ValueError: {text}" in service.log


@pytest.mark.usefixtures("bus")
async def test_a_fatal_error_is_one_line(nats_server: NatsServer, start: Start) -> None:
    service = await start(nats_server.url, "fatal")
    assert await service.ended() == 1
    assert 'service.failed error="no interface eth7: set SHOAL_INTERFACE"' in service.log
    assert "Traceback" not in service.log


@pytest.mark.usefixtures("bus")
async def test_what_does_not_end_is_ended(nats_server: NatsServer, start: Start) -> None:
    service = await start(nats_server.url, "stuck")
    await service.until_logged("service.ready")
    service.process.send_signal(signal.SIGTERM)
    started = asyncio.get_running_loop().time()
    assert await service.ended() == 1
    assert asyncio.get_running_loop().time() - started < 10.5
    assert "service.stuck" in service.log
    assert "small_service.py:" in service.log


@pytest.mark.usefixtures("bus")
async def test_a_crash_ends_the_service_even_if_another_task_does_not_end(
    nats_server: NatsServer, start: Start
) -> None:
    service = await start(nats_server.url, "crash-stuck")
    await service.until_logged('service.failing error="broken later"')
    assert await service.page("readyz") == (503, "stopping\n")
    started = asyncio.get_running_loop().time()
    assert await service.ended() == 1
    assert asyncio.get_running_loop().time() - started < 10.5
    assert "service.stuck" in service.log


async def test_without_a_bus_it_waits_and_can_be_stopped(start: Start) -> None:
    service = await start("nats://127.0.0.1:1")
    await service.until_logged("bus.unreachable attempts=2")
    assert await service.page("healthz") == (200, "ok\n")
    assert await service.page("readyz") == (503, "starting\n")
    service.process.send_signal(signal.SIGTERM)
    assert await service.ended() == 0


async def test_an_address_that_is_taken_is_a_clear_error(nats_server: NatsServer, start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "lab.small_service", "--nats", nats_server.url, "--metrics", where]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=PIPE)
        service = Running(process, where)
        assert await service.ended() == 1
    assert f"cannot serve /metrics at {where}" in service.log
    assert "set SHOAL_METRICS" in service.log
    assert "Traceback" not in service.log


async def test_it_waits_for_what_registry_creates(nats_server: NatsServer, start: Start) -> None:
    service = await start(nats_server.url)
    await service.until_logged("bus.awaits stream=EVENTS")
    assert await service.page("readyz") == (503, "starting\n")
    bus = await NatsBus.connect([nats_server.url], name="registry", timeout=10)
    await bus.prepare()
    await service.until_logged("service.ready")
    await bus.close()


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[SecureServer]:
    """A head's server with TLS, prepared by registry; its trust is in `ca.crt`."""
    server = SecureServer(tmp_path / "secure", tls=True)
    assert server.trust is not None
    (tmp_path / "ca.crt").write_bytes(replace(server.trust, image_keys=(Key.new().public,)).dump())
    server.start()
    try:
        registry = await server.bus("registry")
        await registry.prepare()
        await registry.close()
        yield server
    finally:
        server.kill()


async def test_its_key_proves_it_and_the_ca_proves_the_server(
    secure: SecureServer, start: Start, tmp_path: Path
) -> None:
    secure.keys["fleet"].write(tmp_path / "fleet.key")
    files = {"SHOAL_KEY": str(tmp_path / "fleet.key"), "SHOAL_CA": str(tmp_path / "ca.crt")}
    service = await start(secure.url, **files)
    await service.until_logged("service.ready")
    operator = await secure.bus("operator")
    assert (await operator.call("rpc.fleet.v1.log", LogRequest(node="n1"), LogReply)).text == "n1"
    await operator.close()
    assert "small.trust keys=U" in service.log
    service.process.send_signal(signal.SIGTERM)
    assert await service.ended() == 0
    assert "service.unauthenticated" not in service.log
    assert secure.keys["fleet"].seed not in service.log


async def test_a_subject_that_is_refused_ends_it_clearly(secure: SecureServer, start: Start, tmp_path: Path) -> None:
    """With the key of another service, which may hear other requests."""
    secure.keys["dhcp"].write(tmp_path / "dhcp.key")
    files = {"SHOAL_KEY": str(tmp_path / "dhcp.key"), "SHOAL_CA": str(tmp_path / "ca.crt")}
    service = await start(secure.url, **files)
    await service.until_logged("does not let us hear answers at _INBOX.fleet.>")


@pytest.mark.parametrize("behaviour", ["stray", "good"])
async def test_what_may_not_be_said_or_heard_ends_it_clearly(tmp_path: Path, start: Start, behaviour: str) -> None:
    """The first is found out when it is ready: whoever publishes is not told."""
    rights = {
        "stray": 'publish: {deny: "rpc.registry.>"}',
        "good": 'subscribe: {deny: "rpc.fleet.>"}',
    }[behaviour]
    key = Key.new()
    key.write(tmp_path / "key")
    users = f"{{nkey: {key.public}, permissions: {{ {rights} }}}}, {{user: all, password: x}}"
    server = NatsServer(tmp_path / "nats", config=f"authorization {{ users: [{users}] }}")
    server.start()
    try:
        bus = await NatsBus.connect([server.url.replace("//", "//all:x@")], name="registry", timeout=10)
        await bus.prepare()
        await bus.close()
        service = await start(server.url, behaviour, SHOAL_KEY=str(tmp_path / "key"))
        assert await service.ended() == 1
        what = {"stray": "send to rpc.registry.v1.export", "good": "listen to rpc.fleet.v1.log"}[behaviour]
        told = f'service.failed error="the bus does not let shoal-fleet {what}; is SHOAL_KEY the key of this service?"'
        assert told in service.log
        assert "Traceback" not in service.log
    finally:
        server.kill()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with good and bad files."""
    Key.new().write(tmp_path / "good.key")
    Key.new(Role.ACCOUNT).write(tmp_path / "account.key")
    for name, text, mode in (
        ("open.key", Key.new().seed, 0o644),
        ("cut.key", Key.new().seed[:-2], 0o600),
        ("public.key", Key.new().public, 0o600),
        ("empty.crt", "", 0o644),
        ("bad.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    return tmp_path


BAD_FILES = [
    ({"SHOAL_KEY": "none.key"}, "SHOAL_KEY (--key): cannot read the key .*No such file"),
    ({"SHOAL_KEY": "."}, "SHOAL_KEY (--key): cannot read the key .*Is a directory"),
    ({"SHOAL_KEY": "open.key"}, "SHOAL_KEY (--key): .*may be read by others"),
    ({"SHOAL_KEY": "cut.key"}, "SHOAL_KEY (--key): .*damaged"),
    ({"SHOAL_KEY": "public.key"}, "SHOAL_KEY (--key): .*damaged"),
    ({"SHOAL_KEY": "account.key"}, "SHOAL_KEY (--key): .*account.key is no user's key"),
    ({"SHOAL_KEY": "good.key", "SHOAL_CA": "none.crt"}, "SHOAL_CA (--ca): cannot read .*none.crt: No such file"),
    ({"SHOAL_KEY": "good.key", "SHOAL_CA": "empty.crt"}, "SHOAL_CA (--ca): .*empty.crt: ca.crt holds no certificate"),
    ({"SHOAL_KEY": "good.key", "SHOAL_CA": "bad.crt"}, "SHOAL_CA (--ca): .*bad.crt: .*cannot be read"),
    (
        {"SHOAL_KEY": "good.key", "SHOAL_NATS": "nats://a,tls://u:hush@b"},
        "SHOAL_NATS (--nats) names tls://b: set SHOAL_CA",
    ),
]


@pytest.mark.parametrize(("variables", "told"), BAD_FILES, ids=[told for _, told in BAD_FILES])
async def test_a_file_that_cannot_be_used_ends_it_clearly(
    files: Path, start: Start, variables: dict[str, str], told: str
) -> None:
    at = {name: value if name == "SHOAL_NATS" else str(files / value) for name, value in variables.items()}
    service = await start("nats://127.0.0.1:1", **at)
    assert await service.ended() == 2
    pattern = re.escape(told).replace(r"\.\*", ".*")
    assert re.search(f'error service\\.failed error="{pattern}', service.log), service.log
    assert "Traceback" not in service.log
    assert "hush" not in service.log
    assert not re.search(r"S[UA][A-Z2-7]{50,}", service.log)
