"""`shoal preview NODE [PATH]`: every file a node would get, and the bytes of one."""

import asyncio
import hashlib
import ssl
import stat
import sys
import urllib.error
import urllib.request

import click

from shoal_bus.api import Bus
from shoal_bus.errors import NotFound, Unavailable
from shoal_cli import registry
from shoal_cli.options import examples, output, pass_session
from shoal_cli.session import Session
from shoal_cli.terminal import Format, out, safe, safe_lines, show_data, show_table, size, text_of
from shoal_model import ports
from shoal_model.messages import PreviewFile, PreviewReply, PreviewRequest
from shoal_model.records import Kind
from shoal_model.subjects import Service, rpc

_TYPES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}


@click.command(epilog=examples("shoal preview n001", "shoal preview n001 /etc/hostname", "shoal preview n001 -o json"))
@click.argument("node")
@click.argument("path", required=False)
@output
@pass_session
def preview(session: Session, node: str, path: str | None, form: Format) -> None:
    """List every file that a node would get if it booted now; with PATH, print that file byte for byte.

    On a terminal, control characters in the file are shown as \\x1b; in a pipe the bytes are exact.
    """

    async def body(bus: Bus) -> tuple[PreviewReply, bytes | None]:
        name = await registry.node(bus, node)
        reply = await bus.call(
            rpc(Service.EXECD_CONFIG, "preview"), PreviewRequest(node=name), PreviewReply, timeout=60.0
        )
        return reply, None if path is None else await _content(bus, reply, path, session)

    reply, content = session.run(body)
    if content is not None:
        _print(content)
    elif form is Format.TABLE:
        show_table(["mode", "owner", "size", "from", "path"], [_row(entry) for entry in reply.files])
        for action in reply.actions:
            out(f"then: {safe(' '.join([action.verb, *action.arguments]))}")
    else:
        files = [entry.model_dump(mode="json", exclude={"content"}, exclude_none=True) for entry in reply.files]
        actions = [action.model_dump(mode="json") for action in reply.actions]
        show_data({"node": reply.node, "generation": reply.generation, "files": files, "actions": actions}, form)


def _row(entry: PreviewFile) -> list[str]:
    mode = stat.filemode(_TYPES.get(entry.kind, stat.S_IFREG) | entry.mode)
    path = safe(entry.path) + (f" → {safe(entry.target)}" if entry.target else "")
    return [mode, f"{entry.uid}:{entry.gid}", size(entry.size), safe(entry.origin), path]


def _print(content: bytes) -> None:
    if sys.stdout.isatty():
        for text in safe_lines(text_of(content)):
            out(text)
    else:
        sys.stdout.buffer.write(content)


async def _content(bus: Bus, reply: PreviewReply, path: str, session: Session) -> bytes:
    """The bytes of one file. The last of two with the same path counts, as it does on the node."""
    entry = next((entry for entry in reversed(reply.files) if entry.path == path), None)
    if entry is None:
        raise NotFound(f"node {reply.node} gets no {path}; `shoal preview {reply.node}` lists what it gets")
    if entry.kind != "file":
        raise NotFound(f"{path} is a {entry.kind}" + (f" to {entry.target}" if entry.target else ""))
    if entry.content is not None:
        return entry.content
    networks = await registry.records(bus, Kind.NETWORK)
    head = next((str(record["head"]) for record in networks.records.values() if record.get("boot")), None)
    if head is None or entry.sha256 is None:
        raise Unavailable(f"{path} is too large for a message, and the cluster has no boot network to fetch it over")
    tls = session.tls()
    url = f"{'http' if tls is None else 'https'}://{head}:{ports.OPTIONS_HTTP}/blobs/{entry.sha256}?node={reply.node}"
    return await asyncio.to_thread(_fetch, url, entry.sha256, entry.size, tls)


def _fetch(url: str, digest: str, length: int, tls: ssl.SSLContext | None) -> bytes:
    """Content over HTTP, verified. Raises Unavailable."""
    try:
        with urllib.request.urlopen(url, timeout=30, context=tls) as answer:
            content: bytes = answer.read(length + 1)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise Unavailable(f"cannot fetch {url}: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise Unavailable(f"{url} gave {len(content)} bytes that are not the file: its SHA-256 is another one")
    return content
