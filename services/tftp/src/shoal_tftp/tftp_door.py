"""The TFTP door: requests on the well-known port, each answered from a socket of its own."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import aiofiles
import structlog
from aiofiles.threadpool.binary import AsyncFileIO
from prometheus_client import Counter, Gauge

from shoal_service.errors import Fatal
from shoal_tftp.files import NotServed
from shoal_tftp.handlers import Asker, BootFiles, Door, Offer
from shoal_tftp.transfer import Transfer
from shoal_tftp_protocol import (
    Address,
    Ended,
    Error,
    ErrorCode,
    Limits,
    Malformed,
    Outcome,
    ReadRequest,
    Sender,
    WriteRequest,
    encode,
    parse,
)

_IP_MTU = 14  # Linux: linux/in.h; Python's socket module does not name it
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=I4s4s")  # struct in_pktinfo: interface, local address, destination address
_HEADERS = 32
"""Octets of IPv4, UDP and TFTP headers before a block."""
_LARGEST = 2048
_LONGEST_TOLD = 400
"""Characters of an ERROR: firmware has no more than 512 octets for it."""
_BATCH = 64
_RECEIVE_BUFFER = 1 << 20
_DRAIN = 3.0
_QUIET = (Outcome.COMPLETED, Outcome.PROBED)

_TRANSFERS = Counter("shoal_tftp_transfers", "TFTP transfers that ended", ["outcome"])
_BYTES = Counter("shoal_tftp_bytes", "Bytes of files sent completely over TFTP")
_REFUSED = Counter("shoal_tftp_refused", "TFTP requests answered with an error")
_DROPPED = Counter("shoal_tftp_dropped", "TFTP requests dropped because all places were taken")
_ACTIVE = Gauge("shoal_tftp_active", "TFTP transfers under way")
_log = structlog.stdlib.get_logger("shoal.tftp")


@dataclass
class _Visit:
    """A client's request and what became of it so far."""

    request: ReadRequest
    task: asyncio.Task[None]
    transfer: Transfer | None = None

    @property
    def heard(self) -> bool:
        return self.transfer is not None and self.transfer.heard


class TftpDoor:
    """Serves `files` to TFTP clients, at most `places` at once."""

    def __init__(self, files: BootFiles, listen: Address, places: int) -> None:
        self._files = files
        self._places = places
        self._visits: dict[Address, _Visit] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.bind(listen)
        except OSError as error:
            self._socket.close()
            raise Fatal(f"cannot serve TFTP at {listen[0]}:{listen[1]}: {error.strerror}; set SHOAL_LISTEN") from error

    async def serve(self) -> None:
        """Answer until cancelled; then let transfers come to their end for a few seconds."""
        async with asyncio.TaskGroup() as group:
            self._loop.add_reader(self._socket, self._readable, group.create_task)
            try:
                await self._loop.create_future()
            finally:
                self._loop.remove_reader(self._socket)
                self._socket.close()
                await self._drain()

    async def _drain(self) -> None:
        tasks = [visit.task for visit in self._visits.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_DRAIN)
        for visit in self._visits.values():
            if visit.transfer is not None:
                visit.transfer.abort("this server is stopping: ask again")

    # --- requests ---------------------------------------------------------------------------------------------

    def _readable(self, spawn: Callable[..., asyncio.Task[None]]) -> None:
        for _ in range(_BATCH):
            try:
                data, ancillary, _, client = self._socket.recvmsg(_LARGEST, socket.CMSG_SPACE(_PKTINFO.size))
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("tftp.receive", error=str(error))
                return
            local = _local_address(ancillary)
            if local is not None:
                self._request(data, client, local, spawn)

    def _request(self, data: bytes, client: Address, local: str, spawn: Callable[..., asyncio.Task[None]]) -> None:
        try:
            packet = parse(data)
        except Malformed as error:
            _log.info("tftp.garbage", client=client[0], error=str(error))
            self._refuse(client, local, Error(ErrorCode.ILLEGAL_OPERATION, str(error)))
            return
        match packet:
            case ReadRequest():
                if self._admit(packet, client):
                    task = spawn(self._visit(packet, client, local))
                    self._visits[client] = _Visit(packet, task)
            case WriteRequest(filename):
                _log.warning("tftp.write", client=client[0], file=filename)
                self._refuse(client, local, Error(ErrorCode.ACCESS_VIOLATION, "this server is read-only"))
            case Error():
                pass  # never answered, or two servers would talk for ever
            case _:
                self._refuse(client, local, Error(ErrorCode.ILLEGAL_OPERATION, "expected a read request"))

    def _admit(self, request: ReadRequest, client: Address) -> bool:
        """Whether a transfer is to begin. A request that is dropped comes again: clients repeat them."""
        visit = self._visits.get(client)
        if visit is not None:
            if visit.request == request and not visit.heard:
                return False  # the same again, because our first answer is late or was lost
            self._leave(client, visit)  # the client is done with the old one, whatever we believe
        if len(self._visits) >= self._places:
            waiting = next(((key, visit) for key, visit in self._visits.items() if not visit.heard), None)
            if waiting is None:
                _DROPPED.inc()
                _log.warning("tftp.full", client=client[0], places=self._places)
                return False
            self._leave(*waiting)  # the place of the one who has been silent longest
        return True

    def _leave(self, client: Address, visit: _Visit) -> None:
        visit.task.cancel()
        del self._visits[client]

    # --- one visit --------------------------------------------------------------------------------------------

    async def _visit(self, request: ReadRequest, client: Address, local: str) -> None:
        asker = Asker(client[0], local, Door.TFTP)
        try:
            offer = await self._files.offer(request.filename, asker)
            async with AsyncExitStack() as held:
                sender, transfer = await self._transfer(held, request, offer, client, local)
                self._visits[client].transfer = transfer
                with _ACTIVE.track_inprogress():
                    ended = await transfer.run()
                self._account(offer, asker, sender, ended)
        except NotServed as error:
            level = _log.warning if error.worth_a_log else _log.debug
            level("tftp.refused", client=client[0], file=request.filename, reason=str(error))
            code = ErrorCode.ACCESS_VIOLATION if error.forbidden else ErrorCode.FILE_NOT_FOUND
            self._refuse(client, local, Error(code, str(error)))
        except OSError as error:
            _log.error("tftp.failed", client=client[0], file=request.filename, error=str(error))
            self._refuse(client, local, Error(ErrorCode.UNDEFINED, f"the server cannot serve it: {error.strerror}"))
        finally:
            visit = self._visits.get(client)
            if visit is not None and visit.task is asyncio.current_task():
                del self._visits[client]

    async def _transfer(
        self, held: AsyncExitStack, request: ReadRequest, offer: Offer, client: Address, local: str
    ) -> tuple[Sender, Transfer]:
        """The sender for an offer, on a socket bound to the address that was asked. `held` keeps socket and file."""
        body: bytes | AsyncFileIO
        if isinstance(offer.body, bytes):
            body, size = offer.body, len(offer.body)
        else:
            body, size = await _open(held, offer.body)
        sock = held.enter_context(_socket(local))
        limits = Limits(block_size=_path_mtu(local, client) - _HEADERS)
        try:
            sender = Sender(request, client, size, self._loop.time(), limits)
        except ValueError as error:
            raise NotServed(str(error), worth_a_log=True) from None
        return sender, Transfer(sender, sock, body)

    def _account(self, offer: Offer, asker: Asker, sender: Sender, ended: Ended) -> None:
        _TRANSFERS.labels(ended.outcome.value).inc()
        level = _log.info if ended.outcome in _QUIET else _log.warning
        told = {"reason": ended.reason} if ended.reason else {}
        level(
            f"tftp.{ended.outcome}", client=asker.address, file=offer.name, node=offer.node, bytes=sender.size, **told
        )
        if ended.outcome is Outcome.COMPLETED:
            _BYTES.inc(sender.size)
            self._files.sent(offer, asker, sender.size)
        elif ended.outcome is not Outcome.PROBED:
            self._files.failed(offer, asker, f"{offer.name} was not sent to its end: {ended.reason}")

    def _refuse(self, client: Address, local: str, error: Error) -> None:
        error = replace(error, message=error.message[:_LONGEST_TOLD])
        _REFUSED.inc()
        try:
            with _socket(local) as sock:
                sock.sendto(encode(error), client)
        except OSError as failure:
            _log.warning("tftp.unreachable", client=client[0], error=str(failure))


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> str | None:
    """The address of this head that a datagram was sent to; for a broadcast, the one of the interface."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _PKTINFO.size:
            return socket.inet_ntoa(_PKTINFO.unpack_from(data)[1])
    return None


def _socket(local: str) -> socket.socket:
    """A socket with a port of its own at `local`: the TID of a transfer."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((local, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _path_mtu(local: str, client: Address) -> int:
    """What the kernel knows of the path to the client, in bytes: blocks that fit are not fragmented."""
    with _socket(local) as sock:
        sock.connect(client)
        return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)


async def _open(held: AsyncExitStack, path: Path) -> tuple[AsyncFileIO, int]:
    """A file whose real path was checked before, and its size; `held` closes it. Raises NotServed."""

    def at_once(name: str, flags: int) -> int:
        # Should a FIFO have taken its place, nobody waits for who writes into it.
        return os.open(name, flags | os.O_NONBLOCK)

    try:
        file = await held.enter_async_context(aiofiles.open(path, "rb", buffering=0, opener=at_once))
    except OSError as error:
        raise NotServed(f"{path.name} cannot be read: {error.strerror}", worth_a_log=True) from error
    return file, os.fstat(file.fileno()).st_size
