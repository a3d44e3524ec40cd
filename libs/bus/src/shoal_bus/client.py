"""nats-py's client as we need it: it can prove who we are, insists on TLS where TLS is meant, and lacks five faults."""

import asyncio
import base64
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import DEFAULT_BUFFER_SIZE
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.aio.transport import TcpTransport

from shoal_bus.credentials import Credentials

if TYPE_CHECKING:
    from shoal_bus.link import Link

CONNECT_TIMEOUT = 15
"""Seconds for each step of connecting: behind an auth callout a boot storm makes them long."""
_NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}")


class Message(Msg):
    """A message as it came over the wire, when (seconds of the monotonic clock), and over which link."""

    arrived: float = 0.0
    link: "Link"


Receiver = Callable[[Message], Awaitable[None]]


@contextmanager
def _cancellations_felt() -> Iterator[None]:
    """Raise CancelledError at the end if the task was cancelled meanwhile, and whoever was awaited kept it silent."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


class _Transport(TcpTransport):
    """The wire: a socket, and TLS over it."""

    @property
    def encrypted(self) -> bool:
        return self._io_writer is not None and self._io_writer.get_extra_info("ssl_object") is not None

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        plain = self._io_writer
        try:
            await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        except BaseException:
            self._io_reader = self._io_writer = None  # TLS has its protocol, and nobody tells it of the end
            if plain is not None:
                plain.transport.abort()
            raise
        if self._io_writer is not None:  # or asyncio complains when the server hangs up
            self._io_writer.transport.get_protocol()._over_ssl = True  # type: ignore[attr-defined]

    async def readline(self) -> bytes:
        # Lines are read while connecting alone. A server that takes its time to let us in sends a PING meanwhile, and
        # nats-py would take that for its answer.
        while (line := await super().readline()) == b"PING\r\n":  # type: ignore[no-untyped-call]
            self.write(b"PONG\r\n")  # type: ignore[no-untyped-call]
        if not line:
            raise ConnectionError("the server ended the connection before it let us in")
        return bytes(line)


class Client(NatsClient):
    """One connection of one `Link`, never made again.

    nats-py's reader dies, unseen, of a subject that is not UTF-8 (with one, whoever may publish could deafen us) and of
    a PONG for a cancelled `flush()`. The PING of its `flush()` overtakes what waits to be written: its PONG proves
    nothing. Whatever sends or flushes may swallow the cancellation of its task. And see `_Transport`.
    """

    def __init__(self, link: "Link", credentials: Credentials) -> None:
        super().__init__()
        self._link = link
        self._credentials = credentials
        if credentials.key is not None:
            self._public_nkey = credentials.key.public
            self._auth_configured = True

    def signature(self, nonce: str) -> bytes:
        """The proof that we have our key, in base64. Raises nats.errors.Error for what no server would have signed."""
        if self._credentials.key is None or not _NONCE.fullmatch(nonce):
            raise nats.errors.Error("the server wants something signed that is no nonce")
        return base64.b64encode(self._credentials.key.sign(nonce.encode()))

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """nats-py asks for it when the server wants TLS, and would trust whomever this machine trusts."""
        if self._credentials.tls is None:
            raise nats.errors.Error("the server wants TLS, and there is no CA to check its certificate with")
        return self._credentials.tls

    async def _select_next_server(self) -> None:
        self._current_server = server = self._server_pool[0]  # there is one
        if server.uri.scheme == "tls" and self._credentials.tls is None:
            raise nats.errors.Error("there is no CA to check its certificate with")
        self._transport = _Transport()  # type: ignore[no-untyped-call]
        await self._transport.connect(server.uri, DEFAULT_BUFFER_SIZE, CONNECT_TIMEOUT)

    def _connect_command(self) -> bytes:
        tls = self._current_server is not None and self._current_server.uri.scheme == "tls"
        if tls and not (isinstance(self._transport, _Transport) and self._transport.encrypted):
            raise nats.errors.Error("the server does not offer TLS: it is not told who we are")
        return super()._connect_command()

    async def _process_err(self, err_msg: str) -> None:
        await super()._process_err(err_msg)
        self._err = nats.errors.Error(f"nats: {err_msg}")  # in the form that it has while connecting: quoted

    async def _flush_pending(self, force_flush: bool = False) -> None:
        with _cancellations_felt():
            await super()._flush_pending(force_flush)  # ends in `except CancelledError: pass`

    async def flush(self, timeout: int = CONNECT_TIMEOUT) -> None:
        """As nats-py's."""
        with _cancellations_felt():
            await super().flush(timeout)  # asyncio.wait_for() of Python 3.11 swallows one that comes with the result

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()  # the one before was given up
        await super()._process_pong()

    async def barrier(self) -> None:
        """Return when the server has taken all that was sent. Raises nats.errors.Error, OSError."""
        await self._flush_pending(force_flush=True)
        await self.flush(CONNECT_TIMEOUT)

    async def retire(self, subscription: NatsSubscription) -> None:
        """End a subscription after its last message: none that the server has sent already is lost."""
        await self._send_unsubscribe(subscription._id)
        await self.barrier()
        await subscription.drain()  # type: ignore[no-untyped-call]

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Message:
        message = Message(
            _client=self,
            _sid=sid,
            subject=subject.decode("utf-8", "replace"),
            reply=reply.decode("utf-8", "replace"),
            data=data,
            headers=headers,
        )
        message.arrived = time.monotonic()
        message.link = self._link
        return message
