"""What a node may go through at a head: it boots unexpected, then expected, is robbed of its token, and is revoked."""

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lab import release
from lab.behind import Behind
from lab.head import Head
from lab.nats_peer import Heard, NatsPeer
from lab.peers import peer, turned_away
from lab.space import run
from shoal_bus import codec
from shoal_identity.keys import Key
from shoal_model import subjects
from shoal_model.messages import AlarmKind, BootEvent, BootRequest, Heartbeat
from shoal_model.subjects import Service, Stage

NODE, MAC, ADDRESS = "n001", "52:54:00:77:00:11", "10.77.0.11"
CLUSTER = f"""\
networks:
  boot: {{cidr: 10.77.0.0/24, head: 10.77.0.1, boot: true}}
images:
  compute: {{flavor: bookworm, version: "1.0", modules: [core]}}
templates:
  compute: {{image: compute}}
nodes:
  {NODE}: {{mac: {MAC}, address: {ADDRESS}, template: compute}}
"""
ALARM = subjects.event("identity", NODE, "alarm")
_SCRIPTS = ("http://10.77.0.1:8080/boot.ipxe", "tftp://10.77.0.1/pxelinux.cfg/default")
_TOKEN = re.compile(r"shoal\.token=(\S+)")
_RENDERED = 30.0


@dataclass
class Robbery:
    """The tokens that the node was given, by URL; its key and the thief's; every event that an operator heard."""

    head: Head
    tokens: dict[str, str] = field(default_factory=dict)
    key: Key = field(default_factory=Key.new)
    thief: Key = field(default_factory=Key.new)
    heard: list[Heard] = field(default_factory=list)

    async def happen(self, node: Behind) -> None:
        """From the first record to the end. Call it in the network of the node (see `inside`)."""
        head = self.head
        assert head.access.key is not None
        async with peer(head, Key.read(head.access.key)) as operator:
            operator.subscribe(subjects.EVENTS)
            await operator.settle()
            head.shoal("apply", "-f", "-", stdin=CLUSTER)
            await release.publish(head, "compute")
            self.tokens = {url: _token(node, url) for url in _SCRIPTS}
            token = self.tokens[_SCRIPTS[0]]
            assert await turned_away(head, self.key, token)
            await self._alarm(operator, AlarmKind.NOT_ARMED)
            head.shoal("boot", "arm", NODE)
            await self._boot(token)
            assert await turned_away(head, self.thief, token)
            await self._alarm(operator, AlarmKind.REPLAYED)
            assert await turned_away(head, self.thief, token, nkey="", sig="")
            head.shoal("node", "revoke", NODE)
            assert await turned_away(head, self.key)
            await operator.settle()
            self.heard += operator.messages

    async def _boot(self, token: str) -> None:
        """Come in, and say what nodes say."""
        now, boot = datetime.now(UTC), "0011"
        beat = Heartbeat(node=NODE, boot=boot, at=now, uptime=9.0, load=0.1, memory_total=2, memory_available=1)
        event = BootEvent(node=NODE, stage=Stage.STAGE1_START, at=now, boot=boot)
        async with peer(self.head, self.key, token) as speaker:
            speaker.publish(subjects.told(subjects.boot_event(NODE, Stage.STAGE1_START)), codec.encode(event))
            speaker.publish(subjects.node_topic(NODE, "heartbeat"), codec.encode(beat))
            question = codec.encode(BootRequest(boot=boot))
            answers = f"{subjects.inbox('node', NODE)}.answers"
            speaker.subscribe(answers)
            speaker.publish(subjects.rpc(Service.REGISTRY, "boot", NODE), question, reply=answers)
            assert b"squashfs" in (await speaker.next()).body

    async def _alarm(self, operator: NatsPeer, kind: AlarmKind) -> None:
        """Return when the operator has heard of it."""
        while not any(message.subject == ALARM and kind.encode() in message.body for message in self.heard):
            self.heard.append(await operator.next())


def _token(node: Behind, url: str) -> str:
    """The token in a boot script, once there is one: the file server hears of records after the registry has them."""
    deadline = time.monotonic() + _RENDERED
    while not (found := _TOKEN.search(script := run(node, "curl", "-sS", url))):
        assert time.monotonic() < deadline, script
    return found[1]
