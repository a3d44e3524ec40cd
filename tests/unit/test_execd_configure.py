"""The options on the node: checked, written, fetched, unpacked; a part that fails is named and stops nothing else."""

import hashlib
import io
import os
import ssl
import stat
import tarfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from lab.secure import certified
from shoal_bus.connection import Connection
from shoal_execd.actions import ActionFailed, perform
from shoal_execd.configure import Configurator, await_options
from shoal_execd.journal import Journal
from shoal_execd.node_options import Action, OptionsError, parse_options
from shoal_execd.timeline import Timeline

GENERATION = "a" * 64


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file(path: str, content: bytes, **fields: object) -> dict[str, Any]:
    return {
        "path": path,
        "mode": 0o640,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "content": content,
        "sha256": sha(content),
        "size": len(content),
        **fields,
    }


def options(**fields: object) -> dict[str, Any]:
    return {
        "node": "n001",
        "generation": GENERATION,
        "files": [],
        "archives": [],
        "actions": [],
        "sources": ["http://127.0.0.1:1"],
        **fields,
    }


class Source(ThreadingHTTPServer):
    """Serves `blobs` at /blobs/<sha256> and remembers what was asked for."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.asked.append(self.path)
                content = source.blobs.get(self.path.partition("?")[0].removeprefix("/blobs/"))
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    thread = threading.Thread(target=source.serve_forever, args=[0.01])
    thread.start()
    yield source
    source.shutdown()
    thread.join()
    source.server_close()


def configurator(tmp_path: Path, taken: list[Action] | None = None, tls: ssl.SSLContext | None = None) -> Configurator:
    def take(action: Action, root: Path) -> None:
        if taken is not None:
            taken.append(action)

    (tmp_path / "root").mkdir(exist_ok=True)
    (tmp_path / "run").mkdir(exist_ok=True)
    place = (tmp_path / "root", tmp_path / "run", "n001", Journal("stage2", []))
    return Configurator(*place, lambda seconds: None, take, tls)


def test_files_customizations_and_actions_in_that_order(tmp_path: Path, source: Source) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("etc/motd")
        info.size, info.uid, info.gid = 4, os.getuid(), os.getgid()
        tar.addfile(info, io.BytesIO(b"site"))
    archive = buffer.getvalue()
    source.blobs[sha(archive)] = archive
    taken: list[Action] = []
    wanted = parse_options(
        options(
            files=[file("/etc/motd", b"shoal"), file("/etc/deep/er/x", b"x")],
            archives=[{"name": "site", "archive": {"sha256": sha(archive), "size": len(archive)}}],
            actions=[{"verb": "hostname", "arguments": ["n001"]}],
            sources=[source.url],
        ),
        "n001",
    )
    outcome = configurator(tmp_path, taken).apply(wanted)
    assert (outcome.files, outcome.archives, outcome.actions, outcome.failures) == (2, 1, 1, [])
    assert (tmp_path / "root/etc/motd").read_bytes() == b"site"
    assert stat.S_IMODE((tmp_path / "root/etc/deep/er/x").stat().st_mode) == 0o640
    assert taken == [Action("hostname", ("n001",))]
    assert (tmp_path / "run/generation").read_text() == GENERATION + "\n"


def test_contents_by_digest_are_fetched_for_this_node_from_whichever_source_has_them(
    tmp_path: Path, source: Source
) -> None:
    content = b"large" * 1000
    source.blobs[sha(content)] = content
    wanted = options(files=[file("/etc/keys", content) | {"content": None}], sources=["http://127.0.0.1:1", source.url])
    outcome = configurator(tmp_path).apply(parse_options(wanted, "n001"))
    assert outcome.failures == []
    assert (tmp_path / "root/etc/keys").read_bytes() == content
    assert source.asked == [f"/blobs/{sha(content)}?node=n001"]


def test_beside_a_bus_with_tls_contents_come_from_sources_with_tls_alone(tmp_path: Path, source: Source) -> None:
    trust, files = certified(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    content = b"secret" * 1000
    source.blobs[sha(content)] = content
    plain = options(files=[file("/etc/keys", content) | {"content": None}], sources=[source.url])
    outcome = configurator(tmp_path, tls=trust.client_context()).apply(parse_options(plain, "n001"))
    assert f"no source of {sha(content)[:12]} speaks https://: {source.url}" in outcome.failures[0]
    assert source.asked == []
    source.socket = server.wrap_socket(source.socket, server_side=True)
    secure = plain | {"sources": [source.url, source.url.replace("http:", "https:")]}
    outcome = configurator(tmp_path, tls=trust.client_context()).apply(parse_options(secure, "n001"))
    assert outcome.failures == []
    assert (tmp_path / "root/etc/keys").read_bytes() == content
    assert source.asked == [f"/blobs/{sha(content)}?node=n001"]


@pytest.mark.parametrize("served", [b"other", b"right, but longer", b"ri", None])
def test_content_that_is_not_what_its_digest_says_is_never_written(
    tmp_path: Path, source: Source, served: bytes | None
) -> None:
    content = b"right"
    if served is not None:
        source.blobs[sha(content)] = served
    wanted = options(files=[file("/etc/x", content) | {"content": None}, file("/etc/y", b"y")], sources=[source.url])
    outcome = configurator(tmp_path).apply(parse_options(wanted, "n001"))
    assert len(outcome.failures) == 1
    assert sha(content)[:12] in outcome.failures[0]
    assert source.url in outcome.failures[0]
    assert not (tmp_path / "root/etc/x").exists()
    assert (tmp_path / "root/etc/y").read_bytes() == b"y"


def test_what_stands_in_the_way_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    (tmp_path / "root/etc/x").mkdir(parents=True)
    wanted = options(files=[file("/etc/x", b"x"), file("/etc/x/y/z", b"z"), file("/etc/w", b"w")])
    outcome = configurator(tmp_path).apply(parse_options(wanted, "n001"))
    assert outcome.files == 2
    assert "directory" in outcome.failures[0]
    assert (tmp_path / "root/etc/w").read_bytes() == b"w"


def test_a_customization_that_is_too_large_is_refused_alone(tmp_path: Path) -> None:
    large = {"name": "large", "archive": {"sha256": GENERATION, "size": (8 << 30) + 1}}
    wanted = options(files=[file("/etc/w", b"w")], archives=[large])
    outcome = configurator(tmp_path).apply(parse_options(wanted, "n001"))
    assert (outcome.files, outcome.archives) == (1, 0)
    assert "customization large has 8589934593 bytes" in outcome.failures[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"node": "n002"}, "n002"),
        ({"generation": "x"}, "generation"),
        ({"generation": None}, "generation"),
        ({"files": None}, "files"),
        ({"files": [1]}, "files"),
        ({"files": [file("etc/x", b"")]}, "absolute"),
        ({"files": [file("/etc/../x", b"")]}, "absolute"),
        ({"files": [file("/", b"")]}, "absolute"),
        ({"files": [file("/etc/\0x", b"")]}, "absolute"),
        ({"files": [file("/x", b"", mode=0o70000)]}, "mode"),
        ({"files": [file("/x", b"", mode="0644")]}, "mode"),
        ({"files": [file("/x", b"", uid=-1)]}, "uid"),
        ({"files": [file("/x", b"", gid=2**32)]}, "gid"),
        ({"files": [file("/x", b"", sha256=sha(b"other"))]}, "does not match"),
        ({"files": [file("/x", b"", size=7)]}, "does not match"),
        ({"files": [file("/x", b"") | {"content": "text"}]}, "bytes"),
        ({"archives": [{"name": "../x", "archive": {"sha256": GENERATION, "size": 1}}]}, "archive"),
        ({"archives": [{"name": "x"}]}, "archive x"),
        ({"archives": [{"name": "x", "archive": {"sha256": "y", "size": 1}}]}, "x: 'y'"),
        ({"actions": [{"verb": 1}]}, "action 1"),
        ({"actions": [{"verb": "x", "arguments": "abc"}]}, "action 'x'"),
        ({"actions": [{"verb": "x", "arguments": ["a\0b"]}]}, "action x"),
        ({"sources": []}, "sources"),
        ({"sources": ["file:///etc"]}, "file:///etc"),
    ],
)
def test_malformed_options_are_refused_whole(change: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionsError, match=named):
        parse_options(options(**change), "n001")


def test_an_unknown_verb_and_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ActionFailed, match=r"does not know the verb.*hostname"):
        perform(Action("reboot", ()), tmp_path)
    with pytest.raises(ActionFailed, match="directory /x"):
        perform(Action("directory", ("/x",)), tmp_path)
    with pytest.raises(ActionFailed, match="is not a host name"):
        perform(Action("hostname", ("-bad-",)), tmp_path)
    with pytest.raises(ActionFailed, match="no /etc/ssh"):
        perform(Action("ssh-host-keys", ()), tmp_path)


def test_a_directory_gets_its_mode_and_host_keys_are_made_once(tmp_path: Path) -> None:
    owner = (str(os.getuid()), str(os.getgid()))
    perform(Action("directory", ("/root/.ssh", "0700", *owner)), tmp_path)
    assert stat.S_IMODE((tmp_path / "root/.ssh").stat().st_mode) == 0o700
    (tmp_path / "etc/ssh").mkdir(parents=True)
    perform(Action("ssh-host-keys", ()), tmp_path)
    key = (tmp_path / "etc/ssh/ssh_host_ed25519_key").read_bytes()
    assert stat.S_IMODE((tmp_path / "etc/ssh/ssh_host_ed25519_key").stat().st_mode) == 0o600
    perform(Action("ssh-host-keys", ()), tmp_path)
    assert (tmp_path / "etc/ssh/ssh_host_ed25519_key").read_bytes() == key


class Bus:
    """A bus on which the head says `before` its answer what it has to say."""

    def __init__(self, *before: dict[str, Any]) -> None:
        self._before = before

    async def subscribe(self, subject: str, handler: Callable[[str, dict[str, Any]], Awaitable[None]]) -> "Bus":
        assert subject == "node.n001.options"
        self._handler = handler
        return self

    async def request(self, subject: str, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert subject == "rpc.execd-config.v1.announce.n001"
        for each in self._before:
            await self._handler("node.n001.options", each)
        return {"generation": GENERATION}

    async def stop(self) -> None:
        """Nothing more is heard."""


async def test_of_several_options_the_newest_are_taken_and_bad_ones_told() -> None:
    timeline = Timeline("n001", "b1", Journal("stage2", []))
    bus = Bus(options(generation="1" * 64), options(generation="2" * 64), options(generation="none"))
    assert (await await_options(cast("Connection", bus), timeline)).generation == "2" * 64
    assert "options refused: field generation" in str(timeline.rest()[0])
