"""A node that is about to boot again tells the head to expect it: one that comes back unannounced is let in by an
operator alone.
"""

import asyncio
from dataclasses import dataclass

from shoal_bus.errors import BusError
from shoal_execd.commands import Command, execute
from shoal_execd.head import Head
from shoal_execd.journal import Journal
from shoal_execd.timeline import Link, explain
from shoal_identity.statements import say_reboot
from shoal_model import subjects
from shoal_model.subjects import Service

_TELL = 3.0
_REACH = 5.0
_LIST_JOBS = Command("jobs", ("systemctl", "list-jobs", "--no-legend"), 3.0)
_TARGETS = {"reboot.target", "kexec.target", "poweroff.target", "halt.target"}


async def announce(link: Link, head: Head, boot: str, journal: Journal) -> None:
    """Have the head expect this node again; `boot` is the boot that ends. Takes 3 seconds at most.

    Does nothing where nothing is proven: there nobody has to be expected.
    """
    if head.identity is None:
        return
    node, key = head.node, head.identity.key
    request = {"boot": boot, "key": key.public, "signature": say_reboot(node, boot, key)}
    try:
        reply = await link.request(subjects.rpc(Service.AUTH, "announce-reboot", node), request, timeout=_TELL)
    except BusError as error:
        journal.info(f"the head does not know that this node boots again ({error}): `shoal boot arm {node}` tells it")
    else:
        journal.info(f"this node boots again; the head expects it until {reply.get('until')}")


async def going_down() -> bool:
    """Whether systemd is taking the machine down, and not this agent alone."""
    listed = (await execute(_LIST_JOBS))["stdout"].decode("utf-8", "replace")
    jobs = (line.split() for line in listed.splitlines())
    return any(len(job) > 2 and job[1] in _TARGETS and job[2] == "start" for job in jobs)


@dataclass
class Announcer:
    """Announces the boot that follows one that failed. Does nothing before `head` is set: when the bus let us in."""

    journal: Journal
    head: Head | None = None
    boot: str = ""

    def __call__(self) -> None:
        """Announce it, over a connection of its own. Blocking, and raises nothing: the reboot comes anyway."""
        if self.head is None:
            return
        try:
            asyncio.run(self._announce(self.head))
        except Exception as error:
            self.journal.info(f"the head does not know that this node boots again: {explain(error)}")

    async def _announce(self, head: Head) -> None:
        bus = await head.reach("reboot", self.journal, timeout=_REACH)
        try:
            await announce(bus, head, self.boot, self.journal)
        finally:
            await bus.close()
