"""One TFTP transfer: a `Sender` on a socket of its own, driven by the event loop."""

import asyncio
import socket
from typing import Protocol

from shoal_tftp_protocol import Address, ContentWanted, Ended, Sender

_LARGEST = 2048
"""Octets of a datagram that are looked at: a client sends ACKs and ERRORs alone."""


class Reads(Protocol):
    """An open file, at its beginning."""

    async def read(self, size: int, /) -> bytes:
        """The next `size` bytes, or as many as there are."""


class Transfer:
    """Runs a sender until it ends. `body` is the content itself, or the file that holds it.

    Files are read ahead: the loop never waits for a disk.
    """

    def __init__(self, sender: Sender, sock: socket.socket, body: bytes | Reads) -> None:
        self._loop = asyncio.get_running_loop()
        self._sender = sender
        self._socket = sock
        self._body = body
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self._alarm: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[bytes] | None = None

    @property
    def heard(self) -> bool:
        """Whether the client has answered anything yet."""
        return self._sender.heard

    def abort(self, reason: str) -> None:
        """End the transfer from this side; the client is told."""
        self._sender.abort(reason)
        self._pump()

    async def run(self) -> Ended:
        """Send until the end. The caller closes socket and file."""
        self._loop.add_reader(self._socket, self._readable)
        try:
            self._pump()
            return await self._ended
        finally:
            self._loop.remove_reader(self._socket)
            if self._alarm is not None:
                self._alarm.cancel()
            if self._reading is not None:
                # Whoever reads must be out of the file before it is closed.
                await asyncio.wait([self._reading])

    def _readable(self) -> None:
        # One at a time: clients answer each window with one ACK, and the loop comes back for more.
        try:
            data, address = self._socket.recvfrom(_LARGEST)
        except OSError:
            return  # nothing there after all, or an ICMP error for something sent before: the timer decides
        self._sender.receive_datagram(data, address, self._loop.time())
        self._pump()

    def _pump(self) -> None:
        """Bring what the sender says to where it belongs."""
        while (event := self._sender.next_event()) is not None:
            if isinstance(event, ContentWanted):
                self._fetch(event)
            elif isinstance(event, Ended) and not self._ended.done():
                self._ended.set_result(event)
        for data, address in self._sender.datagrams_to_send(self._loop.time()):
            self._send(data, address)
        due = self._sender.get_timer()
        # One alarm for many blocks: a later deadline is looked at when the earlier alarm goes off.
        if due is not None and (self._alarm is None or due < self._alarm.when()):
            self._arm(due)

    def _arm(self, due: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(due, self._alarmed)

    def _alarmed(self) -> None:
        self._alarm = None
        self._sender.handle_timer(self._loop.time())
        self._pump()

    def _send(self, data: bytes, address: Address) -> None:
        try:
            self._socket.sendto(data, address)
        except OSError:
            # A full buffer, no route, a firewall: to the protocol, each is a lost datagram.
            return

    def _fetch(self, wanted: ContentWanted) -> None:
        if isinstance(self._body, bytes):
            content = self._body[wanted.offset : wanted.offset + wanted.size]
            self._sender.receive_content(content, self._loop.time())
            return
        # A sender wants its content in order and once, so that the file already stands at the offset.
        self._reading = self._loop.create_task(self._body.read(wanted.size))
        self._reading.add_done_callback(self._fetched)

    def _fetched(self, reading: asyncio.Task[bytes]) -> None:
        self._reading = None
        if reading.cancelled() or self._ended.done():
            return
        if (error := reading.exception()) is not None:
            self._sender.abort(f"the file cannot be read: {error}")
        else:
            self._sender.receive_content(reading.result(), self._loop.time())
        self._pump()
