"""A node and its head prove themselves to each other on a real bus with TLS; and no secret is left anywhere."""

import asyncio
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import loggers
from lab.auth_lab import Machine, auth_lab
from lab.nats_server import NatsServer
from lab.secure import certified
from shoal_bus import client, dialling, link
from shoal_bus.api import Endpoint
from shoal_bus.connection import Credentials
from shoal_bus.errors import Unavailable
from shoal_bus.nats import NatsBus
from shoal_bus.server_config import Tls
from shoal_execd import cmdline, drivers, handover, head, rebooting, stage1, union
from shoal_execd.head import Head
from shoal_execd.identity import Identity
from shoal_execd.journal import Journal
from shoal_execd.rebooting import Announcer
from shoal_execd.timeline import Timeline
from shoal_identity import signatures
from shoal_identity.keys import Key
from shoal_identity.statements import says_reboot
from shoal_identity.trust import Trust
from shoal_model import ports, subjects
from shoal_model.messages import (
    AnnounceRebootReply,
    AnnounceRebootRequest,
    BootReply,
    BootRequest,
    SignedManifest,
)
from shoal_model.records import BootStyle, Geometry, ImageManifest, StoredFile
from shoal_model.subjects import Service

CONTENT = bytes(range(256)) * 64
TOKEN = "Token-of-this-boot_" * 8


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    with loggers.restored():
        yield


class SecureBus(NatsServer):
    """A server with TLS that lets in the keys it knows, as of its latest (re)start."""

    def __init__(self, directory: Path) -> None:
        self.trust, self.files = certified_in(directory)
        self.head = Key.new()
        super().__init__(directory, config=self._lets_in(self.head))

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def admit(self, key: Key) -> None:
        """Let this key in, too, from now on."""
        text = self._config.read_text()
        self._config.write_text(text.replace(self._lets_in(self.head), self._lets_in(self.head, key)))
        self.restart()

    def _lets_in(self, *keys: Key) -> str:
        users = ", ".join(f"{{nkey: {key.public}}}" for key in keys)
        tls = f"cert_file: {json.dumps(str(self.files.certificate))}, key_file: {json.dumps(str(self.files.key))}"
        return f"tls {{ {tls} }}\nauthorization {{ users: [{users}] }}"


def certified_in(directory: Path) -> tuple[Trust, Tls]:
    directory.mkdir(parents=True, exist_ok=True)
    return certified(directory)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecureBus]:
    server = SecureBus(tmp_path / "nats")
    server.start()
    yield server
    server.kill()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """An HTTP server on loopback; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def file_server(content: bytes) -> type[BaseHTTPRequestHandler]:
    """Serves the same whatever is asked for, in ranges if they are."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first, last = 0, len(content) - 1
            if wanted := self.headers.get("Range"):
                first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            self.wfile.write(content[first : last + 1])

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    return Handler


def manifest() -> ImageManifest:
    digest = hashlib.sha256(CONTENT).hexdigest()
    geometry = Geometry(symbol_size=64, block_symbols=16)
    size = geometry.block_size
    return ImageManifest(
        image="compute",
        flavor="bookworm",
        version="1.0",
        identity=digest,
        content=digest,
        modules=[],
        kernel_version="6.1",
        squashfs=StoredFile(sha256=digest, size=len(CONTENT)),
        kernel=StoredFile(sha256=digest, size=1),
        initrd=StoredFile(sha256=digest, size=1),
        geometry=geometry,
        blocks=[hashlib.sha256(CONTENT[at : at + size]).hexdigest() for at in range(0, len(CONTENT), size)],
    )


@asynccontextmanager
async def services(secure: SecureBus, *endpoints: Endpoint[Any]) -> AsyncIterator[NatsBus]:
    credentials = Credentials(key=secure.head, tls=secure.trust.client_context())
    bus = await NatsBus.connect([secure.url], name="head", credentials=credentials, timeout=10)
    await bus.serve("head", "0.1.0", endpoints)
    try:
        yield bus
    finally:
        await bus.close()


def registry(builder: Key, source: str, key: Key | None = None) -> Endpoint[BootRequest]:
    """Tells every node to boot the image; `key` signs it in the place of the builder's."""
    body = manifest().body()
    signer = key or builder
    reply = BootReply(
        node="n001",
        name="n001",
        manifest=SignedManifest(body=body, key=signer.public, signature=signatures.sign(body, signer)),
        style=BootStyle.RORAM,
        root_size="50%",
        tmp_size="25%",
        sources=[source],
    )

    async def answer(subject: str, request: BootRequest) -> BootReply:
        return reply

    return Endpoint(subjects.rpc_of_every_node(Service.REGISTRY, "boot"), BootRequest, answer)


async def test_a_node_comes_from_its_command_line_to_the_hand_over_and_leaves_no_secret_behind(
    secure: SecureBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, builder = Key.new(), Key.new()
    secure.admit(key)
    ca = Trust(secure.trust.ca, (builder.public,)).dump()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(secure.files.certificate, secure.files.key)
    run, union_paths = tmp_path / "run", union.Paths(tmp_path / "union", tmp_path / "newroot")
    union_paths.union.mkdir()
    monkeypatch.setattr(handover, "RUN", run)
    monkeypatch.setattr(stage1, "_PATHS", union_paths)
    monkeypatch.setattr(stage1, "Key", SimpleNamespace(new=lambda: key))
    for module, name in ((union, "room_for"), (union, "assemble"), (union, "mount_secret")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(drivers, "load_for_root", lambda journal: None)
    with serving(file_server(ca)) as boot_door, serving(file_server(CONTENT), tls) as image_door:
        monkeypatch.setattr(ports, "BOOT_HTTP", boot_door)
        text = (
            f"shoal.nats={secure.url} shoal.node=n001 shoal.boot=b1 shoal.token={TOKEN} "
            f"shoal.ca={hashlib.sha256(ca).hexdigest()} ip=127.0.0.1::: BOOTIF=01-52-54-00-77-00-11"
        ).replace(":::", "::127.0.0.1:255.0.0.0:n001::")
        seen: list[str] = []
        journal = Journal("stage1", [seen.append], verbose=True, secrets=cmdline.secrets(text))
        journal.info(f"stage 1: {text}")
        announcer = Announcer(journal)
        line = cmdline.parse(text)
        async with services(secure, registry(builder, f"https://127.0.0.1:{image_door}")):
            await stage1.from_head(line, Timeline("n001", "b1", journal), announcer)
    assert union_paths.file.read_bytes() == CONTENT
    state = handover.load(run)
    assert handover.load_identity(state, run) == Identity(key, Trust(secure.trust.ca, (builder.public,)))
    assert announcer.head is not None
    assert announcer.head.token is None, "the key alone proves a node that was let in"
    left = "\n".join([*seen, (run / "boot.json").read_text(), (run / "ca.crt").read_text(), repr((line, announcer))])
    assert "shoal.token=… " in left
    for secret in (TOKEN, key.seed):
        assert secret not in left


async def test_an_image_that_nobody_of_this_cluster_has_signed_is_refused_with_the_reason(
    secure: SecureBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, builder = Key.new(), Key.new()
    secure.admit(key)
    trust = Trust(secure.trust.ca, (builder.public,))
    way = Head("n001", [secure.url], Identity(key, trust))
    told = asyncio.Event()
    journal = Journal("stage1", [lambda line: told.set() if "degraded" in line else None])
    timeline = Timeline("n001", "b1", journal)
    async with services(secure, registry(builder, "https://127.0.0.1:1", Key.new())):
        bus = await way.reach("stage1", journal)
        try:
            asking = asyncio.create_task(head.ask_orders(bus, timeline, way.image_keys))
            async with asyncio.timeout(10):
                await told.wait()
            asking.cancel()
        finally:
            await bus.close()
    [event] = [message for subject, message in timeline.rest() if subject.startswith("evt.boot.")]
    assert event["stage"] == "stage1.bus"
    assert "the image is not signed by an image key of this cluster: the manifest is signed with U" in event["reason"]


async def test_a_node_that_is_not_let_in_says_so_and_is_let_in_as_soon_as_it_may(secure: SecureBus) -> None:
    key = Key.new()
    seen: list[str] = []
    refused = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear(line: str) -> None:
        seen.append(line)
        if "does not let this node in" in line:
            loop.call_soon_threadsafe(refused.set)

    way = Head("n001", [secure.url], Identity(key, secure.trust), TOKEN)
    reaching = asyncio.create_task(way.reach("stage1", Journal("stage1", [hear])))
    async with asyncio.timeout(30):
        await refused.wait()
        assert way.token == TOKEN
        await asyncio.to_thread(secure.admit, key)
        bus = await reaching
    await bus.close()
    assert way.token is None
    assert "it is not armed, or in quarantine; `shoal boot why n001` on the head tells why" in "".join(seen)
    assert TOKEN not in "".join(seen)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for each step of connecting, instead of 15."""
    for module in (client, dialling, link):
        monkeypatch.setattr(module, "CONNECT_TIMEOUT", 1)


async def told(way: Head, what: str) -> list[str]:
    """What the journal says while a node tries to connect, up to these words."""
    seen: list[str] = []
    said = asyncio.Event()

    def hear(line: str) -> None:
        seen.append(line)
        if what in line:
            said.set()

    reaching = asyncio.create_task(way.reach("stage1", Journal("stage1", [hear])))
    try:
        async with asyncio.timeout(20):
            await said.wait()
    finally:
        reaching.cancel()
        await asyncio.gather(reaching, return_exceptions=True)
    return seen


async def test_a_node_says_that_auth_may_be_down_while_the_server_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with auth_lab(tmp_path, tls=True) as lab:
        impatient(monkeypatch)
        assert lab.server.trust is not None
        machine = Machine("n001")
        with pytest.raises(Unavailable, match=r"^the server speaks, and neither lets us in nor refuses us within \d s"):
            await lab.boot(machine)
        way = Head("n001", [lab.server.url], Identity(machine.key, lab.server.trust), TOKEN)
        seen = await told(way, "auth may be down there")
    assert "it is not armed" not in "".join(seen)
    assert way.token == TOKEN


async def test_that_a_server_says_nothing_at_all_is_no_fault_of_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        seen = await told(Head("n001", [f"nats://127.0.0.1:{mute.getsockname()[1]}"]), "no answer within 1 s")
    assert "auth" not in "".join(seen)


@pytest.mark.parametrize("wants_tls", [True, False])
async def test_a_server_that_is_not_of_this_cluster_learns_no_token(tmp_path: Path, wants_tls: bool) -> None:
    """One with a certificate of another authority, and one that would do without TLS."""
    trust, _ = certified_in(tmp_path / "ours")
    _, files = certified_in(tmp_path / "theirs")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate, files.key)
    heard: list[bytes] = []
    met = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.11.0", "max_payload": 1 << 20, "nonce": "abc"}
        writer.write(b"INFO " + json.dumps({**info, "tls_required": wants_tls}).encode() + b"\r\n")
        try:
            if wants_tls:
                await writer.start_tls(tls)
            heard.append(await reader.read(4096))
        except OSError:
            heard.append(b"")
        finally:
            writer.close()
            met.set()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    way = Head("n001", [f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"], Identity(Key.new(), trust), TOKEN)
    reaching = asyncio.create_task(way.reach("stage1", Journal("stage1", [])))
    try:
        async with asyncio.timeout(20):
            await met.wait()
    finally:
        reaching.cancel()
        await asyncio.gather(reaching, return_exceptions=True)
        server.close()
        await server.wait_closed()
    assert set(heard) == {b""}


async def test_a_boot_that_failed_is_announced_with_the_key_alone(
    secure: SecureBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key.new()
    secure.admit(key)
    heard: list[AnnounceRebootRequest] = []

    async def expect(subject: str, request: AnnounceRebootRequest) -> AnnounceRebootReply:
        heard.append(request)
        return AnnounceRebootReply(until=datetime(2026, 11, 20, tzinfo=UTC))

    monkeypatch.setattr(rebooting, "_REACH", 10.0)
    every = subjects.rpc_of_every_node(Service.AUTH, "announce-reboot")
    announcer = Announcer(Journal("stage1", []), Head("n001", [secure.url], Identity(key, secure.trust)), "b1")
    async with services(secure, Endpoint(every, AnnounceRebootRequest, expect)):
        await asyncio.to_thread(announcer)
    (request,) = heard
    assert (request.boot, request.key) == ("b1", key.public)
    assert says_reboot("n001", "b1", key.public, request.signature)
