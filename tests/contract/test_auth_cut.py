"""Who was let in and goes again, on a real server: rebooted, replaced, revoked, removed."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.auth_lab import ADDRESSES, DOCUMENT, AuthLab, Forger, Machine, alive, auth_lab, cut
from shoal_auth import sweeper
from shoal_bus import codec
from shoal_bus.client import Message
from shoal_bus.link import Link
from shoal_identity.keys import Key
from shoal_identity.statements import say_reboot
from shoal_model import messages as m
from shoal_model.subjects import Service, rpc

ALWAYS = {**DOCUMENT, "global": {"admission": "always"}}


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AuthLab]:
    """With one replica of auth."""
    async with auth_lab(tmp_path) as lab, lab.replica():
        yield lab


async def announce(link: Link, node: str, boot: str, key: Key | Forger) -> Message:
    """That this node boots again, over a connection of its own."""
    said = {"boot": boot, "key": key.public, "signature": say_reboot(node, boot, key)}  # type: ignore[arg-type]
    return await link.request(rpc(Service.AUTH, "announce-reboot", node), codec.pack(said), None, 10)


async def armed(lab: AuthLab) -> list[tuple[str, str]]:
    """Who is expected, by whose word."""
    return [(one.node, one.author) for one in (await lab.ask("armed", m.Empty(), m.ArmedReply)).nodes]


async def test_always_admitted_it_replaces_itself_and_the_one_before_is_cut(lab: AuthLab) -> None:
    await lab.apply(ALWAYS)
    first, second = Machine("n001"), Machine("n001")
    old = await lab.boot(first)
    new = await lab.boot(second)
    await cut(old)
    assert await alive(new)
    await lab.refused(first)
    (alarm,) = await lab.alarms("n001")
    assert alarm.attempt is not None
    assert alarm.attempt.key == first.key.public


async def test_a_node_announces_its_own_reboot(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    link = await lab.boot(machine)

    for boot, key, said in (
        ("0" * 16, machine.key, f"boot {'0' * 16} does not speak for n001 with this key"),
        (machine.boot, Key.new(), f"boot {machine.boot} does not speak for n001 with this key"),
        (machine.boot, Forger(machine.key.public), "this is not signed with the key that is to speak for n001"),
    ):
        refused = (await announce(link, "n001", boot, key)).headers
        assert refused == {"Nats-Service-Error-Code": "403", "Nats-Service-Error": said}
    reply = codec.decode((await announce(link, "n001", machine.boot, machine.key)).data, m.AnnounceRebootReply)
    assert await armed(lab) == [("n001", "node n001")]
    assert reply.until > datetime.now(UTC)
    await lab.boot(Machine("n001"))


async def test_what_a_thief_announced_is_not_expected_once_it_is_revoked(lab: AuthLab) -> None:
    thief = Machine("n001")
    await lab.arm("n001", "n002")
    link = await lab.boot(thief)
    await announce(link, "n001", thief.boot, thief.key)
    await lab.ask("revoke", m.RevokeRequest(nodes=["n001", "n002"], author="ada"), m.RevokeReply)
    assert await armed(lab) == []
    await lab.refused(another := Machine("n001"), lab.token(another))
    assert await lab.changes("n002", 2) == ["armed", "disarmed"]


async def test_revoked_it_is_cut_and_stays_out(lab: AuthLab) -> None:
    machine, other = Machine("n001"), Machine("n002")
    await lab.arm("n001", "n002")
    links = [await lab.boot(machine), await lab.knock(machine)]
    bystander = await lab.boot(other)
    reply = await lab.ask("revoke", m.RevokeRequest(nodes=["n001", "n003"], author="ada"), m.RevokeReply)
    assert (reply.nodes, reply.connections) == (["n001"], 2)
    for link in links:
        await cut(link)
    await lab.refused(machine)
    await lab.arm("n001")
    await lab.refused(machine, lab.token(machine))
    assert await alive(bystander)
    assert (await lab.bindings())["n001"].revoked
    await lab.boot(Machine("n001"))


async def test_a_node_that_is_removed_is_cut(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    link = await lab.boot(machine)
    nodes = {"n002": DOCUMENT["nodes"]["n002"]}
    await lab.apply({**DOCUMENT, "nodes": nodes})
    await cut(link)
    await lab.apply()
    await lab.refused(machine)


async def test_a_node_whose_address_changes_stays_until_it_boots(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    link = await lab.boot(machine)
    nodes = {**DOCUMENT["nodes"], "n001": {"mac": "52:54:00:77:00:11", "address": "127.0.0.111"}}
    await lab.apply({**DOCUMENT, "nodes": nodes})
    assert await alive(await lab.knock(machine))
    await lab.arm("n001")
    await lab.refused(another := Machine("n001"), lab.token(another))
    await lab.boot(Machine("n001", address="127.0.0.111"))
    await cut(link)


async def test_connections_that_a_node_does_not_need_are_cut(lab: AuthLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "_AGAIN", 0.2)
    monkeypatch.setattr(sweeper, "_EVERY", 0.2)
    machine = Machine("n001")
    await lab.arm("n001")
    links = [await lab.boot(machine)]

    async def hear(_: Message) -> None:
        raise AssertionError("nobody says anything")

    greedy = await lab.knock(machine)
    for number in range(201):
        await greedy.subscribe(f"_INBOX.node.n001.{number}", hear)
    links += [await lab.knock(machine) for _ in range(3)]
    await cut(greedy)
    late = await lab.knock(machine)
    await cut(late)
    assert all([await alive(link) for link in links])


async def test_a_machine_that_was_replaced_is_cut_and_refused(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    link = await lab.boot(machine)
    nodes = {**DOCUMENT["nodes"], "n001": {"mac": "52:54:00:77:00:99", "address": ADDRESSES["n001"]}}
    await lab.apply({**DOCUMENT, "nodes": nodes})
    await cut(link)
    await lab.refused(machine)
    (failure,) = await lab.failures("n001")
    assert "52:54:00:77:00:99" in (failure.reason or "")
    await lab.apply()
    assert await alive(await lab.knock(machine))
