"""Replicas of auth on a real server: together, one after the other, cut off from what they store, and none at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from lab.auth_lab import AuthLab, Machine, auth_lab, until
from lab.nats_proxy import NatsProxy
from shoal_auth import connections
from shoal_bus import server_config
from shoal_bus.errors import BusError, Unavailable
from shoal_bus.link import Link
from shoal_model import messages as m


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AuthLab]:
    """Without auth."""
    async with auth_lab(tmp_path) as lab:
        yield lab


async def tried(lab: AuthLab, machine: Machine, token: str) -> Link | None:
    try:
        return await lab.knock(machine, token)
    except Unavailable:
        return None


async def test_of_many_keys_with_one_token_one_is_let_in_whoever_is_asked(lab: AuthLab) -> None:
    async with lab.replica(), lab.replica(), lab.replica():
        for _ in range(5):
            await lab.arm("n001")
            boot = Machine("n001").boot
            machines = [Machine("n001", boot) for _ in range(12)]
            token = lab.token(machines[0])
            links = await asyncio.gather(*(tried(lab, machine, token) for machine in machines))
            winners = [machine for machine, link in zip(machines, links, strict=True) if link is not None]
            assert len(winners) == 1
            assert (await lab.bindings())["n001"].party.key == winners[0].key.public


async def test_of_many_boots_one_uses_up_what_was_expected(lab: AuthLab) -> None:
    async with lab.replica(), lab.replica():
        await lab.arm("n001", "n002")
        machines = [Machine(node) for node in ("n001", "n002") for _ in range(8)]
        links = await asyncio.gather(*(tried(lab, machine, lab.token(machine)) for machine in machines))
        winners = [machine.node for machine, link in zip(machines, links, strict=True) if link is not None]
        assert sorted(winners) == ["n001", "n002"]


async def test_whom_one_has_let_in_the_other_one_cuts(lab: AuthLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PAGE", 2)
    machine = Machine("n001")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lab.replica())
        await lab.arm("n001", "n002")
        links = [await lab.boot(machine), await lab.knock(machine), await lab.knock(machine)]
        bystander = await lab.boot(Machine("n002"))
        async with lab.replica():
            await stack.aclose()
            reply = await lab.ask("revoke", m.RevokeRequest(nodes=["n001"], author="ada"), m.RevokeReply)
            assert (reply.nodes, reply.connections) == (["n001"], 3)
            async with asyncio.timeout(15):
                await asyncio.gather(*(link.lost() for link in links))
            await lab.refused(machine)
            await bystander.flush()


async def test_a_connection_that_outlived_its_revocation_is_cut_by_the_next_auth(lab: AuthLab) -> None:
    machine = Machine("n001")
    async with lab.replica():
        await lab.arm("n001")
        link = await lab.boot(machine)
    nodes = {"n002": {"mac": "52:54:00:77:00:12", "address": "127.0.0.12"}}
    document = {"networks": {"boot": {"cidr": "127.0.0.0/8", "head": "127.0.0.2", "boot": True}}, "nodes": nodes}
    await lab.apply(document)
    await link.flush()
    async with lab.replica(), asyncio.timeout(15):
        await link.lost()


async def test_of_two_in_one_boot_the_first_is_cut_by_the_next_auth(
    lab: AuthLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator admits the second one, and auth ends before it has cut the first."""

    async def unheard(*_: object) -> None:
        raise Unavailable("no server answers")

    thief = Machine("n001")
    node = Machine("n001", thief.boot)
    with monkeypatch.context() as patch:
        patch.setattr(connections.Connections, "cut", unheard)
        async with lab.replica():
            await lab.arm("n001")
            stolen = await lab.boot(thief)
            await lab.refused(node, token := lab.token(node))
            await lab.held()
            with pytest.raises(Unavailable, match="it is done"):
                await lab.ask("decide", m.DecideRequest(node="n001", admit=True, author="ada"), m.Quarantined)
            await stolen.flush()
    async with lab.replica(), asyncio.timeout(15):
        await stolen.lost()
        await (await lab.knock(node, token)).flush()


async def test_bindings_outlive_auth_and_the_server(lab: AuthLab) -> None:
    machine = Machine("n001")
    async with lab.replica():
        await lab.arm("n001", "n002")
        await lab.boot(machine)
    lab.server.restart()
    async with lab.replica():
        await lab.knock(machine)
        await lab.boot(Machine("n002"))
        await lab.refused(another := Machine("n001"), lab.token(another))


async def test_auth_outlives_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_config, "TIMEOUT", 4)
    machine = Machine("n001")
    async with auth_lab(tmp_path) as lab, lab.replica(), lab.replica():
        await lab.arm("n001")
        await lab.boot(machine)
        lab.server.restart()
        await until(lambda: tried(lab, machine, ""))
        await until(lambda: _armed(lab, "n002"))
        await lab.boot(Machine("n002"))
        await lab.refused(another := Machine("n001"), lab.token(another))
        reply = await lab.ask("revoke", m.RevokeRequest(nodes=["n001"], author="ada"), m.RevokeReply)
        assert (reply.nodes, reply.connections) == (["n001"], 1)


async def _armed(lab: AuthLab, node: str) -> bool:
    try:
        await lab.arm(node)
    except BusError:
        return False
    return True


async def test_without_its_store_it_lets_in_whom_it_knows_and_refuses_others_with_a_reason(lab: AuthLab) -> None:
    machine, other = Machine("n001"), Machine("n002")
    async with AsyncExitStack() as way:
        proxy = await way.enter_async_context(NatsProxy(lab.server.port))
        async with lab.replica(proxy.url) as bus:
            await lab.arm("n001", "n002")
            await lab.boot(machine)
            await way.aclose()
            await until(lambda: _is(not bus.connected))
            refused = asyncio.create_task(lab.refused(other, lab.token(other)))
            await lab.knock(machine)
            await refused
    log = (lab.server.directory / "nats.log").read_text().lower()
    assert "auth callout service returned an error: auth cannot note now who is let in" in log


async def _is(true: bool) -> bool:
    return true


async def test_while_there_is_no_auth_services_and_operators_connect_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_config, "TIMEOUT", 4)
    async with auth_lab(tmp_path) as lab:
        machine = Machine("n001")
        async with lab.replica():
            await lab.arm("n001")
            await lab.boot(machine)
        for principal in lab.server.keys:
            await (await lab.server.bus(principal)).close()
        with pytest.raises(Unavailable):
            await lab.knock(machine)
        async with lab.replica():
            await lab.knock(machine)
