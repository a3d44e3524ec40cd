"""Who is let in, on a real server with the callout: nodes, and whoever says to be one."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from lab.auth_lab import ADDRESSES, DOCUMENT, ELSEWHERE, AuthLab, Machine, auth_lab
from lab.nats_peer import NatsPeer, Refused
from shoal_auth import jwt, sweeper
from shoal_bus import codec
from shoal_bus.client import Message
from shoal_bus.link import Link
from shoal_identity.keys import Key
from shoal_identity.statements import say_reboot
from shoal_model import messages as m
from shoal_model.messages import AlarmKind, QuarantineState
from shoal_model.subjects import Service, Stage, boot_event, node_topic, rpc

ALWAYS = {**DOCUMENT, "global": {"admission": "always"}}


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
async def either(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[AuthLab]:
    async with auth_lab(tmp_path, tls=request.param) as lab, lab.replica():
        yield lab


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AuthLab]:
    """With one replica of auth."""
    async with auth_lab(tmp_path) as lab, lab.replica():
        yield lab


class Forger:
    """Shows a key that it does not have."""

    def __init__(self, public: str) -> None:
        self.public = public

    def sign(self, data: bytes) -> bytes:
        return Key.new().sign(data)


async def cut(link: Link) -> None:
    """Return when the server has ended this connection."""
    async with asyncio.timeout(15):
        await link.lost()


def ended(outcome: str) -> float:
    """How many attempts ended so."""
    return REGISTRY.get_sample_value("shoal_auth_attempts_total", {"outcome": outcome}) or 0.0


async def announce(link: Link, node: str, boot: str, key: Key | Forger) -> Message:
    """That this node boots again, over a connection of its own."""
    said = {"boot": boot, "key": key.public, "signature": say_reboot(node, boot, key)}  # type: ignore[arg-type]
    return await link.request(rpc(Service.AUTH, "announce-reboot", node), codec.pack(said), None, 10)


async def armed(lab: AuthLab) -> list[tuple[str, str]]:
    """Who is expected, by whose word."""
    return [(one.node, one.author) for one in (await lab.ask("armed", m.Empty(), m.ArmedReply)).nodes]


async def alive(link: Link) -> bool:
    await link.flush()
    return link.alive


async def test_an_expected_boot_is_let_in_once(either: AuthLab) -> None:
    machine = Machine("n001")
    await either.arm("n001")
    await either.boot(machine)
    binding = (await either.bindings())["n001"]
    assert (binding.party.key, binding.party.boot) == (machine.key.public, machine.boot)
    assert (binding.party.address, binding.party.mac) == (machine.address, "52:54:00:77:00:11")
    assert await either.changes("n001", 2) == ["armed", "bound"]
    assert (await either.ask("armed", m.Empty(), m.ArmedReply)).nodes == []
    await either.refused(another := Machine("n001"), either.token(another))


async def test_the_same_boot_comes_again_with_key_and_token_or_with_the_key_alone(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    links = [await lab.boot(machine), await lab.boot(machine), await lab.knock(machine)]
    assert all([await alive(link) for link in links])


async def test_a_node_speaks_for_itself_alone(lab: AuthLab) -> None:
    await lab.arm("n001")
    link = await lab.boot(Machine("n001"))

    async def hear(_: Message) -> None:
        raise AssertionError("this is not for n001")

    for subject in (node_topic("n001", "options"), "_INBOX.node.n001.x"):
        await link.subscribe(subject, hear)
    await link.publish(node_topic("n001", "heartbeat"), b"\x80")
    await link.flush()
    assert link.denied == set()
    for subject in (node_topic("n002", "options"), "_INBOX.node.n002.x", "_INBOX.>", "$KV.records.>", "evt.>", ">"):
        await link.subscribe(subject, hear)
    elsewhere = ["$KV.identity.binding.n001", "$JS.API.STREAM.INFO.KV_identity", node_topic("n001", "options")]
    elsewhere += [boot_event("n002", Stage.STAGE1_START), rpc(Service.REGISTRY, "boot", "n002")]
    for subject in (*elsewhere, rpc(Service.AUTH, "arm")):
        await link.publish(subject, b"\x80")
    await link.flush()
    assert len(link.denied) == 12


async def test_an_unexpected_boot_waits_for_an_operator_and_says_what_to_type(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.refused(machine, token := lab.token(machine))
    (entry,) = await lab.held()
    assert (entry.attempt.key, entry.attempt.boot, entry.bound) == (machine.key.public, machine.boot, None)
    (alarm,) = await lab.alarms("n001")
    assert (alarm.kind, alarm.attempt, alarm.bound) == (AlarmKind.NOT_ARMED, entry.attempt, None)
    (failure,) = await lab.failures("n001")
    assert (failure.boot, failure.status) == (machine.boot, m.Status.FAILED)
    assert "`shoal boot arm n001`" in (failure.reason or "")
    assert "`shoal quarantine admit n001`" in (failure.reason or "")
    await lab.arm("n001")
    await lab.knock(machine, token)
    (entry,) = await lab.held()
    assert entry.state is QuarantineState.ADMITTED


async def test_admitted_it_is_bound_and_comes_in_when_it_tries_again(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.refused(machine, token := lab.token(machine))
    await lab.held()
    entry = await lab.ask("decide", m.DecideRequest(node="n001", admit=True, author="ada"), m.Quarantined)
    assert (entry.state, entry.attempt.key) == (QuarantineState.ADMITTED, machine.key.public)
    await lab.knock(machine, token)
    assert await lab.changes("n001", 1) == ["admitted"]


async def test_rejected_it_makes_no_more_alarms_armed_or_not(lab: AuthLab) -> None:
    machine, other = Machine("n001"), Machine("n001")
    await lab.refused(machine, token := lab.token(machine))
    await lab.alarms("n001")
    await lab.held()
    await lab.ask("decide", m.DecideRequest(node="n001", admit=False, author="ada"), m.Quarantined)
    quiet = ended("rejected")
    await lab.arm("n001")
    await lab.refused(machine, token)
    await lab.boot(other)
    await lab.refused(machine, token)
    assert ended("rejected") == quiet + 2
    assert (await lab.bindings())["n001"].party.key == other.key.public


async def test_a_token_with_a_second_key_is_refused_and_both_are_named(lab: AuthLab) -> None:
    machine, thief = Machine("n001"), Machine("n001")
    await lab.arm("n001")
    link = await lab.knock(machine, token := lab.token(machine))
    await lab.arm("n001")
    await lab.refused(thief, token)
    (alarm,) = await lab.alarms("n001")
    assert alarm.kind is AlarmKind.REPLAYED
    assert alarm.attempt is not None
    assert alarm.bound is not None
    assert (alarm.attempt.key, alarm.bound.key) == (thief.key.public, machine.key.public)
    assert await alive(link)


async def test_a_thief_that_comes_first_is_cut_when_the_node_is_admitted(lab: AuthLab) -> None:
    machine, thief = Machine("n001"), Machine("n001")
    await lab.arm("n001")
    stolen = await lab.knock(thief, token := lab.token(machine))
    await lab.refused(machine, token)
    await lab.held()
    await lab.ask("decide", m.DecideRequest(node="n001", admit=True, author="ada"), m.Quarantined)
    await cut(stolen)
    link = await lab.knock(machine, token)
    await lab.refused(thief, token)
    await lab.refused(thief)
    assert await alive(link)
    assert {alarm.attempt.key for alarm in await lab.alarms("n001", 2) if alarm.attempt} == {
        machine.key.public,
        thief.key.public,
    }


async def test_an_old_token_does_not_count_when_the_node_is_armed_again(lab: AuthLab) -> None:
    first, second, thief = Machine("n001"), Machine("n001"), Machine("n001")
    await lab.arm("n001")
    await lab.knock(first, captured := lab.token(first))
    await lab.arm("n001")
    await lab.boot(second)
    await lab.arm("n001")
    await lab.refused(thief, captured)
    await lab.refused(first, captured)
    assert [armed.node for armed in (await lab.ask("armed", m.Empty(), m.ArmedReply)).nodes] == ["n001"]


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"not_after": 1_000_000_000}, AlarmKind.EXPIRED),
        ({"address": ELSEWHERE}, AlarmKind.WRONG_ADDRESS),
        ({"key": Key.new()}, AlarmKind.FORGED),
    ],
)
async def test_a_token_that_does_not_count_is_an_alarm(
    lab: AuthLab, changed: dict[str, object], kind: AlarmKind
) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    await lab.refused(machine, lab.token(machine, **changed))
    (alarm,) = await lab.alarms("n001")
    assert alarm.kind is kind
    told = await lab.told(boot_event("n001", Stage.STAGE1_BUS), m.BootEvent, 2)
    assert [failure.reason for failure in told] == ([alarm.reason] if kind is AlarmKind.EXPIRED else [])
    await lab.boot(machine)


@pytest.mark.parametrize(
    "changed", [{"mac": "52:54:00:77:00:99"}, {"node": "n003"}, {"node": "n003", "key": Key.new()}]
)
async def test_a_token_for_what_is_not_recorded_is_refused(lab: AuthLab, changed: dict[str, object]) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    await lab.refused(machine, lab.token(machine, **changed))
    await lab.boot(machine)
    assert await lab.changes("n001", 2) == ["armed", "bound"]
    assert await lab.told("evt.identity.*.alarm", m.IdentityAlarm, 1) == []


async def test_a_stolen_key_is_of_no_use_elsewhere(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    link = await lab.boot(machine)
    await lab.refused(Machine("n001", machine.boot, machine.key, ELSEWHERE))
    (alarm,) = await lab.alarms("n001")
    assert alarm.kind is AlarmKind.WRONG_ADDRESS
    assert alarm.attempt is not None
    assert alarm.bound is not None
    assert (alarm.attempt.address, alarm.bound.address) == (ELSEWHERE, ADDRESSES["n001"])
    assert await alive(link)


async def test_nobody_comes_in_without_a_proof(lab: AuthLab) -> None:
    machine, stranger = Machine("n001"), Machine("n002")
    await lab.arm("n001", "n002")
    await lab.boot(machine)
    await lab.refused(machine, key=Forger(machine.key.public))
    await lab.refused(stranger, lab.token(stranger), key=Forger(stranger.key.public))
    await lab.refused(stranger)
    await lab.refused(stranger, "rubbish")
    for options in ({"nkey": "", "sig": ""}, {"sig": ""}, {"sig": "rubbish"}, {"nkey": "", "sig": "", "user": "n002"}):
        with pytest.raises(Refused):
            async with NatsPeer.open(lab.server.port, stranger.key, None, auth_token=lab.token(stranger), **options):
                pass


async def test_a_clients_own_jwt_is_worth_nothing(lab: AuthLab) -> None:
    machine = Machine("n001")
    await lab.arm("n001")
    await lab.boot(machine)
    granted = {"type": "user", "version": 2, "pub": {"allow": [">"]}, "sub": {"allow": [">"]}, "subs": -1}
    claims = {"sub": machine.key.public, "aud": "CLUSTER", "nats": granted}
    forged = jwt.encode(claims, lab.server.issuer, 1_700_000_000)
    with pytest.raises(Refused):
        async with NatsPeer.open(lab.server.port, machine.key, jwt=forged):
            pass


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


async def test_no_token_and_no_seed_is_in_any_log(lab: AuthLab, capfd: pytest.CaptureFixture[str]) -> None:
    machine, thief = Machine("n001"), Machine("n001")
    shown = [lab.token(machine), lab.token(thief, key=Key.new()), lab.token(thief, not_after=1_000_000_000)]
    await lab.refused(machine, shown[0])
    await lab.arm("n001")
    await lab.knock(machine, shown[0])
    for token in shown:
        await lab.refused(thief, token)
    await lab.alarms("n001", 4)
    said = "".join(capfd.readouterr()) + (lab.server.directory / "nats.log").read_text()
    assert "auth.alarm" in said
    seeds = [key.seed for key in (machine.key, lab.server.issuer, lab.server.callout, lab.server.system)]
    assert [secret for secret in (*shown, *seeds) if secret in said] == []
