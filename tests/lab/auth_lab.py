"""A bus with the callout, replicas of auth in this process, a registry with two nodes, and whoever says to be one."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

import shoal_registry.service
from lab.secure import SecureServer
from shoal_auth.answer import Seal
from shoal_auth.service import Access, Duty, answering
from shoal_bus.connection import Credentials
from shoal_bus.dialling import dial
from shoal_bus.errors import Unavailable
from shoal_bus.link import Link
from shoal_bus.nats import NatsBus
from shoal_identity import tokens
from shoal_identity.keys import Key
from shoal_identity.tokens import LIFETIME, BootToken
from shoal_model import messages as m
from shoal_model import subjects
from shoal_model.subjects import Service, rpc

R = TypeVar("R", bound=BaseModel)

ADDRESSES = {"n001": "127.0.0.11", "n002": "127.0.0.12"}
MACS = {"n001": "52:54:00:77:00:11", "n002": "52:54:00:77:00:12"}
ELSEWHERE = "127.0.0.99"
DOCUMENT: dict[str, Any] = {
    "networks": {"boot": {"cidr": "127.0.0.0/8", "head": "127.0.0.2", "boot": True}},
    "nodes": {node: {"mac": MACS[node], "address": ADDRESSES[node]} for node in ADDRESSES},
}

_from: ContextVar[str | None] = ContextVar("from", default=None)


@dataclass
class Machine:
    """Something that boots as `node`, or says so: it has a key of its own and, with a boot, a token."""

    node: str
    boot: str = field(default_factory=lambda: secrets.token_hex(8))
    key: Key = field(default_factory=Key.new)
    address: str = ""

    def __post_init__(self) -> None:
        self.address = self.address or ADDRESSES[self.node]


class AuthLab:
    """Made by `auth_lab`."""

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self.server = SecureServer(folder / "nats", tls=tls)
        self.boot_key = Key.new()
        self.lifetime = 600
        self.operator: NatsBus
        self._stack = AsyncExitStack()

    def token(self, machine: Machine, **changed: Any) -> str:  # noqa: ANN401
        """The token of a machine's boot; `key` is who signs it."""
        signer = changed.pop("key", self.boot_key)
        values = {
            "node": machine.node,
            "mac": MACS.get(machine.node, "52:54:00:00:00:01"),
            "address": machine.address,
            "boot": machine.boot,
            "not_after": int(time.time()) + LIFETIME,
        }
        return tokens.mint(BootToken(**{**values, **changed}), signer)

    async def knock(self, machine: Machine, token: str | None = None, *, key: object = None) -> Link:
        """Connect once, from the machine's address. Raises Unavailable if it is refused."""
        trust = self.server.trust
        credentials = Credentials(
            key=key or machine.key,  # type: ignore[arg-type]
            token=token,
            tls=trust.client_context() if trust is not None else None,
            inbox_prefix=subjects.inbox("node", machine.node),
        )
        before = _from.set(machine.address)
        try:
            link = await dial(self.server.url, machine.node, credentials, Counter())
        finally:
            _from.reset(before)
        self._stack.push_async_callback(link.shut)
        return link

    async def boot(self, machine: Machine) -> Link:
        """Connect with key and token."""
        return await self.knock(machine, self.token(machine))

    async def refused(self, machine: Machine, token: str | None = None, *, key: object = None) -> None:
        """Connect, and fail if that succeeds."""
        try:
            await self.knock(machine, token, key=key)
        except Unavailable as error:
            assert "authorization violation" in str(error).lower()  # noqa: PT017
            return
        raise AssertionError(f"{machine} was let in")

    async def ask(self, verb: str, request: BaseModel, reply: type[R]) -> R:
        """Ask auth, as the operator."""
        return await self.operator.call(rpc(Service.AUTH, verb), request, reply, timeout=20)

    async def arm(self, *nodes: str, seconds: int = 600) -> None:
        """Expect a boot of each."""
        await self.ask("arm", m.ArmRequest(nodes=list(nodes), seconds=seconds, author="ada"), m.ArmedReply)

    async def bindings(self) -> dict[str, m.Binding]:
        """Who speaks for whom."""
        reply = await self.ask("bindings", m.BindingsRequest(), m.BindingsReply)
        return {binding.node: binding for binding in reply.bindings}

    async def held(self, count: int = 1) -> Sequence[m.Quarantined]:
        """What is in quarantine, once there are so many."""

        async def entries() -> Sequence[m.Quarantined]:
            found = (await self.ask("quarantine", m.Empty(), m.QuarantineReply)).entries
            return found if len(found) == count else []

        return await until(entries)

    async def alarms(self, node: str, count: int = 1) -> Sequence[m.IdentityAlarm]:
        """The alarms about a node, once there are so many."""

        async def found() -> Sequence[m.IdentityAlarm]:
            told = await self.told(subjects.event("identity", node, "alarm"), m.IdentityAlarm, count)
            return told if len(told) >= count else []

        return await until(found)

    async def changes(self, node: str, count: int) -> Sequence[str]:
        """What auth said of a node, once that is so much."""

        async def found() -> Sequence[str]:
            told = await self.told(subjects.event("identity", node, "changed"), m.IdentityChanged, count)
            return [change.what for change in told] if len(told) >= count else []

        return await until(found)

    async def failures(self, node: str, count: int = 1) -> Sequence[m.BootEvent]:
        """Boot events of a node that auth sent."""

        async def found() -> Sequence[m.BootEvent]:
            return await self.told(subjects.boot_event(node, subjects.Stage.STAGE1_BUS), m.BootEvent, count)

        return await until(found)

    async def apply(self, document: dict[str, Any] = DOCUMENT) -> None:
        """Have these records and no others."""
        request = m.ApplyRequest(document=document, author="ada", prune=True)
        await self.operator.call(rpc(Service.REGISTRY, "apply"), request, m.ChangeReply, timeout=20)

    @asynccontextmanager
    async def replica(self, bus_url: str = "") -> AsyncIterator[NatsBus]:
        """One more auth that answers, until the block ends; gives its bus, which may come to the server another way."""
        server = self.server
        access = Access([server.url], server.callout, server.system, server.trust)
        duty = Duty(Seal(server.issuer, self.lifetime), [self.boot_key.public], lambda: datetime.now(UTC), "0")
        credentials = server.credentials(Service.AUTH)
        url = bus_url or server.url
        bus = await NatsBus.connect([url], name="auth", credentials=credentials, timeout=10, creates=False)
        try:
            async with answering(bus, access, duty):
                try:
                    yield bus
                finally:
                    await bus.drain()
        finally:
            await bus.close()

    async def told(self, subject: str, kind: type[R], count: int) -> list[R]:
        """The first events of a subject, so many at most: those that come within a second."""
        found: list[R] = []
        try:
            async with asyncio.timeout(1), self.operator.events(subject, kind, since=0) as events:
                async for _, _, event in events:
                    found.append(event)
                    if len(found) == count:
                        break
        except TimeoutError:
            pass
        return found


@asynccontextmanager
async def auth_lab(folder: Path, *, tls: bool = False) -> AsyncIterator[AuthLab]:
    """The bus, the registry and the operator; no auth yet."""
    loop = asyncio.get_running_loop()
    plain: Callable[..., Awaitable[Any]] = loop.create_connection

    async def create_connection(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        local = _from.get()
        return await plain(*arguments, **options, **({"local_addr": (local, 0)} if local else {}))

    loop.create_connection = create_connection  # type: ignore[method-assign]
    lab = AuthLab(folder, tls=tls)
    async with lab._stack as stack:
        lab.server.start()
        stack.callback(lab.server.kill)
        registry = await lab.server.bus(Service.REGISTRY)
        stack.push_async_callback(registry.close)
        await registry.prepare()
        lab.operator = await lab.server.bus("operator")
        stack.push_async_callback(lab.operator.close)
        async with _living(lambda tasks: shoal_registry.service.start(registry, tasks, _now, "0")):
            await lab.apply()
            yield lab


@asynccontextmanager
async def _living(setup: Callable[[asyncio.TaskGroup], Awaitable[Any]]) -> AsyncIterator[None]:
    class End(Exception):
        pass

    try:
        async with asyncio.TaskGroup() as tasks:
            await setup(tasks)
            yield
            raise End
    except* End:
        pass


def _now() -> datetime:
    return datetime.now(UTC)


T = TypeVar("T")


async def until(check: Callable[[], Awaitable[T]], seconds: float = 15) -> T:
    """What it gives, as soon as that is something."""
    async with asyncio.timeout(seconds):
        while not (found := await check()):  # noqa: ASYNC110 - nothing tells us when
            await asyncio.sleep(0.02)
    return found


class Forger:
    """Shows a key that it does not have."""

    def __init__(self, public: str) -> None:
        self.public = public

    def sign(self, data: bytes) -> bytes:
        """Proves nothing."""
        return Key.new().sign(data)


async def cut(link: Link) -> None:
    """Return when the server has ended this connection."""
    async with asyncio.timeout(15):
        await link.lost()


async def alive(link: Link) -> bool:
    """Whether the server still takes what comes over this connection."""
    await link.flush()
    return link.alive
