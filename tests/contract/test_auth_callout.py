"""Who is let in, on a real server with the callout: nodes, and whoever says to be one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from lab.auth_lab import ADDRESSES, ELSEWHERE, AuthLab, Forger, Machine, alive, auth_lab, cut
from lab.nats_peer import NatsPeer, Refused
from shoal_auth import jwt
from shoal_bus.client import Message
from shoal_identity.keys import Key
from shoal_model import messages as m
from shoal_model.messages import AlarmKind, QuarantineState
from shoal_model.subjects import Service, Stage, boot_event, node_topic, rpc


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
async def either(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[AuthLab]:
    async with auth_lab(tmp_path, tls=request.param) as lab, lab.replica():
        yield lab


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AuthLab]:
    """With one replica of auth."""
    async with auth_lab(tmp_path) as lab, lab.replica():
        yield lab


def ended(outcome: str) -> float:
    """How many attempts ended so."""
    return REGISTRY.get_sample_value("shoal_auth_attempts_total", {"outcome": outcome}) or 0.0


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
