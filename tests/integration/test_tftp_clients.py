"""The real shoal-tftp, asked by real clients over a wire: every file of the tree, intact."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lab.behind import Behind
from lab.nats_server import NatsServer
from lab.net import Lan, firewall
from lab.space import Running, Space
from lab.tftp_head import BIG, HEAD, OTHER_HEAD, SIZES, Files, content, counted, register, tftp_service, until_counted
from shoal_bus.nats import NatsBus
from shoal_model.records import ImageManifest
from shoal_tftp_protocol import Ack, Data, Error, OptionAck, ReadRequest, WriteRequest, encode, parse

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LOADERS = {
    "pxelinux.0": "/usr/lib/PXELINUX/pxelinux.0",
    "lpxelinux.0": "/usr/lib/PXELINUX/lpxelinux.0",
    "ldlinux.c32": "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    "undionly.kpxe": "/usr/lib/ipxe/undionly.kpxe",
    "snponly.efi": "/usr/lib/ipxe/snponly.efi",
    "ipxe.efi": "/usr/lib/ipxe/ipxe.efi",
}
Fetch = Callable[[str, Path], list[str]]


def hpa(name: str, target: Path) -> list[str]:
    return ["tftp", "-m", "binary", HEAD, "-c", "get", name, str(target)]


def atftp(*options: str) -> Fetch:
    words = [word for option in options for word in ("--option", option)]
    return lambda name, target: ["atftp", *words, "--get", "-r", name, "-l", str(target), HEAD]


def curl(*words: str, scheme: str = "tftp", port: int = 69) -> Fetch:
    return lambda name, target: ["curl", "-sS", "--fail", *words, "-o", str(target), f"{scheme}://{HEAD}:{port}/{name}"]


CLIENTS: dict[str, Fetch] = {
    "tftp-hpa": hpa,
    "atftp": atftp(),
    "atftp-odd": atftp("blksize 1111", "tsize"),
    "atftp-huge": atftp("blksize 65464"),
    "atftp-window": atftp("blksize 1408", "windowsize 16"),
    "atftp-timeout": atftp("timeout 3", "blksize 9"),
    "curl": curl(),
    "curl-1428": curl("--tftp-blksize", "1428"),
    "curl-plain": curl("--tftp-no-options"),
    "http": curl(scheme="http", port=8080),
}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def manifest(files: Files) -> ImageManifest:
    return files.lay()


@pytest.fixture
async def service(
    lan: Lan, nats_server: NatsServer, bus: NatsBus, files: Files, manifest: ImageManifest
) -> AsyncIterator[Running]:
    await register(bus, manifest)
    async with tftp_service(lan.space, nats_server.url, files) as running:
        yield running


@pytest.fixture
def n001(lan: Lan) -> Iterator[Behind]:
    with Behind(lan, "n001", "52:54:00:77:00:11", "10.77.0.11/24") as client:
        yield client


async def ran(space: Space, argv: list[str], timeout: float = 60) -> tuple[int, str]:
    """Run a program without stopping the loop; its exit status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *space.command(argv), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(timeout):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


async def fetched(space: Space, fetch: Fetch, name: str, target: Path) -> bytes:
    """What a client gets under a name."""
    await asyncio.to_thread(target.unlink, missing_ok=True)
    status, said = await ran(space, fetch(name, target))
    # tftp-hpa ends with 0 whatever happens, and makes no file of an empty one.
    assert status == 0, f"{name}: {said}"
    assert "rror" not in said, f"{name}: {said}"
    return await asyncio.to_thread(lambda: target.read_bytes() if target.exists() else b"")


def expected(files: Files, manifest: ImageManifest) -> dict[str, bytes]:
    """Every file of the tree whose bytes are the same for all, but for the big one."""
    tree = {name: data for name, data in files.own.items() if len(data) < BIG}
    tree |= {name: Path(path).read_bytes() for name, path in LOADERS.items()}
    for part, data in files.blobs.items():
        tree[f"shoal/images/compute/{part}"] = data
        tree[f"shoal/images/{manifest.squashfs.sha256}/{part}"] = data
    return tree


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_file_of_the_tree_arrives_intact(
    client: str, service: Running, n001: Behind, files: Files, manifest: ImageManifest, tmp_path: Path
) -> None:
    tree = expected(files, manifest)
    if client == "atftp-timeout":  # blocks of nine bytes: the small ones are enough
        tree = {name: data for name, data in tree.items() if len(data) < 100_000}
    for name, data in tree.items():
        assert await fetched(n001, CLIENTS[client], name, tmp_path / "got") == data, name
    assert await counted(r'shoal_tftp_transfers_total{outcome="(aborted|failed|timed-out)"}') == 0


@pytest.mark.parametrize("client", ["tftp-hpa", "atftp", "curl", "atftp-window", "http"])
async def test_block_numbers_roll_over(client: str, service: Running, n001: Behind, tmp_path: Path) -> None:
    assert await fetched(n001, CLIENTS[client], f"files/{BIG}", tmp_path / "got") == content(BIG)


async def test_netascii_for_people(service: Running, n001: Behind, files: Files, tmp_path: Path) -> None:
    (files.tftpboot / "text").write_bytes(b"one\ntwo\r\n\rthree\n" * 200)
    argv = ["tftp", "-m", "netascii", HEAD, "-c", "get", "text", str(tmp_path / "got")]
    assert (await ran(n001, argv))[0] == 0
    assert (tmp_path / "got").read_bytes() == (files.tftpboot / "text").read_bytes()


async def test_sixteen_clients_at_once(service: Running, n001: Behind, files: Files, tmp_path: Path) -> None:
    names = [name for name in CLIENTS if name != "atftp-timeout"]
    async with asyncio.TaskGroup() as group:
        got = {
            number: group.create_task(
                fetched(
                    n001, CLIENTS[names[number % len(names)]], "shoal/images/compute/initrd", tmp_path / f"{number}"
                )
            )
            for number in range(16)
        }
    assert all(task.result() == files.blobs["initrd"] for task in got.values())


async def test_lost_datagrams_are_sent_again(lan: Lan, service: Running, n001: Behind, tmp_path: Path) -> None:
    firewall(
        lan.space,
        "table inet loss {"
        " chain in { type filter hook input priority 0; iifname boot0 numgen random mod 100 < 2 drop; };"
        " chain out { type filter hook output priority 0; oifname boot0 numgen random mod 100 < 2 drop; }; }",
    )
    for client in ("atftp-odd", "curl-1428", "atftp-window"):
        assert await fetched(n001, CLIENTS[client], "files/100000", tmp_path / "got") == content(100_000), client


async def test_a_client_killed_midway_disturbs_nobody(
    service: Running, n001: Behind, files: Files, tmp_path: Path
) -> None:
    dying = Running(n001, hpa(f"files/{BIG}", tmp_path / "dying"))
    async with asyncio.timeout(20):
        while not (tmp_path / "dying").exists() or (tmp_path / "dying").stat().st_size < 100_000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    dying.signal(signal.SIGKILL)
    dying.process.wait(5)
    assert await fetched(n001, CLIENTS["curl"], "files/100000", tmp_path / "got") == content(100_000)
    assert await counted("shoal_tftp_active") == 1
    await until_counted('shoal_tftp_transfers_total{outcome="timed-out"}', 1, seconds=60)
    assert await counted("shoal_tftp_active") == 0
    assert "fell silent after block" in (tmp_path / "tftp.log").read_text()


# --- datagrams of our own -----------------------------------------------------------------------------------------


class Peer:
    """A socket that speaks TFTP as a test wants it."""

    def __init__(self, head: str = HEAD) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind((HEAD, 0))
        self.head = head

    def ask(self, data: bytes, port: int = 69) -> None:
        self.socket.sendto(data, (self.head, port))

    async def hears(self) -> tuple[object, tuple[str, int]]:
        data, address = await asyncio.to_thread(self.socket.recvfrom, 70_000)
        return parse(data), address


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.socket.close()


async def test_a_size_probe_is_no_failure(service: Running, peer: Peer) -> None:
    peer.ask(encode(ReadRequest("shoal/images/compute/kernel", "octet", {"tsize": "0", "blksize": "1468"})))
    answer, address = await peer.hears()
    assert answer == OptionAck({"tsize": "3000001", "blksize": "1468"})
    peer.ask(encode(Error(8, "User aborted the transfer")), address[1])
    await until_counted('shoal_tftp_transfers_total{outcome="probed"}', 1)


async def test_the_answer_comes_from_the_address_that_was_asked(lan: Lan, service: Running, peer: Peer) -> None:
    peer.head = OTHER_HEAD
    peer.ask(encode(ReadRequest("files/1")))
    assert (await peer.hears())[1][0] == OTHER_HEAD
    peer.ask(encode(ReadRequest("files/missing")))
    answer, address = await peer.hears()
    assert (answer, address[0]) == (Error(1, "no such file: files/missing"), OTHER_HEAD)


async def test_a_request_that_is_repeated_is_one_transfer(service: Running, peer: Peer) -> None:
    for _ in range(5):
        peer.ask(encode(ReadRequest("files/513")))
    first, address = await peer.hears()
    assert isinstance(first, Data)
    assert await counted("shoal_tftp_active") == 1
    peer.ask(encode(Ack(1)), address[1])
    second, same = await peer.hears()
    assert (second, same) == (Data(2, content(513)[512:]), address)
    peer.ask(encode(Ack(2)), address[1])


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (WriteRequest("files/1"), 2, "this server is read-only"),
        (ReadRequest("../../etc/shadow"), 2, "the file name leads out of the tree"),
        (ReadRequest("files"), 1, "files is a directory"),
        (ReadRequest("/"), 2, "the request names a directory, not a file"),
        (ReadRequest("files/1", "mail"), 1, "transfer mode 'mail' is not supported: use octet"),
        (Ack(7), 4, "expected a read request"),
    ],
)
async def test_what_is_refused(service: Running, peer: Peer, request_: object, code: int, message: str) -> None:
    peer.ask(encode(request_))  # type: ignore[arg-type]
    assert (await peer.hears())[0] == Error(code, message)


async def test_garbage_changes_nothing(service: Running, peer: Peer, n001: Behind, tmp_path: Path) -> None:
    for size in range(600):
        peer.ask(content(size))
        peer.ask(b"\0" + bytes([size % 8]) + content(size)[: size % 40])
    assert await fetched(n001, CLIENTS["curl"], "files/100000", tmp_path / "got") == content(100_000)
    assert service.running


async def test_more_clients_than_places(
    lan: Lan, nats_server: NatsServer, bus: NatsBus, files: Files, manifest: ImageManifest, tmp_path: Path
) -> None:
    """Silent clients give way to new ones; those that answer stay."""
    await register(bus, manifest)
    async with tftp_service(lan.space, nats_server.url, files, SHOAL_TRANSFERS="4"):
        peers = [Peer() for _ in range(12)]
        busy = peers[0]
        busy.ask(encode(ReadRequest("files/100000")))
        _, address = await busy.hears()
        busy.ask(encode(Ack(1)), address[1])
        assert isinstance((await busy.hears())[0], Data)
        for silent in peers[1:]:
            silent.ask(encode(ReadRequest("files/100000")))
            await silent.hears()
        assert await counted("shoal_tftp_active") == 4
        busy.ask(encode(Ack(2)), address[1])
        assert (await busy.hears())[0] == Data(3, content(100_000)[1024:1536])
        for one in peers:
            one.socket.close()


async def test_it_stops_in_time_and_tells_its_clients(service: Running, peer: Peer) -> None:
    peer.ask(encode(ReadRequest("files/100000")))
    await peer.hears()
    began = time.monotonic()
    status = await asyncio.to_thread(service.stop)
    assert status == 0
    assert time.monotonic() - began < 10
    while not isinstance(answer := (await peer.hears())[0], Error):
        assert isinstance(answer, Data)
    assert "stopping" in answer.message


def test_the_sizes_are_the_telling_ones() -> None:
    assert {0, 511, 512, 513, 1024}.issubset(SIZES)
