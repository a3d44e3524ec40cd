"""The connections of account CLUSTER, as the servers tell of them, and how to cut them: the system account's side."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from pydantic import AwareDatetime, BaseModel, ValidationError

from shoal_bus.connection import Connection, Message
from shoal_bus.errors import BusError
from shoal_bus.server_config import CLUSTER
from shoal_model.messages import Party

log = structlog.stdlib.get_logger("shoal.auth")

_LIST = "$SYS.REQ.SERVER.PING.CONNZ"
_PAGE = 1024
_FIRST, _QUIET = 2.0, 0.25
"""Seconds for the first server to answer, and then for the next one: how many there are, nobody tells."""
_KICK_WITHIN = 2.0
_SHOWN = 12
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Peer:
    """A node's connection: `id` at the server `server`, and who it was let in as: see `user_name`; since when it is
    there, and how many subscriptions it has.
    """

    server: str
    id: int
    user: str
    since: datetime = _LONG_AGO
    subscriptions: int = 0

    @property
    def node(self) -> str:
        """The node that it is to speak for."""
        return self.user.partition("@")[0]


class _Server(BaseModel):
    id: str


class _Connection(BaseModel):
    cid: int
    authorized_user: str = ""
    start: AwareDatetime = _LONG_AGO
    subscriptions: int = 0


class _Data(BaseModel):
    total: int = 0
    connections: list[_Connection] = []


class _Page(BaseModel):
    server: _Server
    data: _Data = _Data()


class _Problem(BaseModel):
    description: str = "it does not say why"


class _Kicked(BaseModel):
    error: _Problem | None = None


def user_name(node: str, party: Party) -> str:
    """What servers call the connection of who speaks for a node: another key of the same boot has another name."""
    return f"{node}@{party.boot or ''}@{party.key[1 : 1 + _SHOWN]}"


class Connections:
    """Made with a connection of the system user."""

    def __init__(self, system: Connection) -> None:
        self._system = system

    async def peers(self) -> list[Peer]:
        """The connections of all nodes at all servers. Raises BusError."""
        peers: dict[tuple[str, int], Peer] = {}
        offset, pages = 0, await self._pages(0)
        while True:
            for page in pages:
                peers |= {(peer.server, peer.id): peer for peer in _nodes(page)}
            offset += _PAGE
            if all(page.data.total <= offset for page in pages):
                return list(peers.values())
            pages = await self._pages(offset, servers=len(pages))

    async def cut(self, peer: Peer) -> bool:
        """Whether its server has cut a connection; if not, the log says why: it may be gone. Raises BusError."""
        request = json.dumps({"cid": peer.id}).encode()
        subject = f"$SYS.REQ.SERVER.{peer.server}.KICK"
        answer = await self._system.exchange(subject, request, None, timeout=_KICK_WITHIN)
        try:
            problem = _Kicked.model_validate_json(answer.data).error
        except ValidationError as error:
            raise BusError(f"what the server says of a connection to cut cannot be read: {error}") from error
        if problem is None:
            return True
        log.warning("auth.not_cut", user=peer.user, server=peer.server, connection=peer.id, reason=problem.description)
        return False

    async def _pages(self, offset: int, servers: int = 0) -> list[_Page]:
        """One page of each server's connections; of so many `servers`, if it is known how many there are."""
        wanted = {"auth": True, "acc": CLUSTER, "sort": "cid", "offset": offset, "limit": _PAGE}
        arrived: asyncio.Queue[Message] = asyncio.Queue()

        async def take(message: Message) -> None:
            arrived.put_nowait(message)

        link = await self._system.link(_FIRST)
        inbox = link.inbox()
        listening = await self._system.listen(inbox, take)
        try:
            await link.publish(_LIST, json.dumps(wanted).encode(), reply=inbox)
            pages: list[_Page] = []
            while message := await _next(arrived, _QUIET if pages and not servers else _FIRST):
                pages.append(_Page.model_validate_json(message.data))
                if len(pages) == servers:
                    break
        except ValidationError as error:
            raise BusError(f"the server's list of connections cannot be read: {error}") from error
        finally:
            await listening.stop()
        if not pages:
            raise BusError("no server tells of its connections: has the system user its permissions?")
        return pages


async def _next(arrived: asyncio.Queue[Message], seconds: float) -> Message | None:
    try:
        async with asyncio.timeout(seconds):
            return await arrived.get()
    except TimeoutError:
        return None


def _nodes(page: _Page) -> Iterator[Peer]:
    """Users of our configuration are called by their keys, nodes by `user_name`: only a node's has an @."""
    for connection in page.data.connections:
        if "@" in connection.authorized_user:
            user, since = connection.authorized_user, connection.start
            yield Peer(page.server.id, connection.cid, user, since, connection.subscriptions)
