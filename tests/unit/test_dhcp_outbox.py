"""Events on their way to the bus: bounded, in order, kept while the bus is away. And what settings are refused."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import structlog
from prometheus_client import REGISTRY
from pydantic import BaseModel
from structlog.testing import capture_logs

from shoal_bus.errors import Denied, Unavailable
from shoal_bus.fakes import MemoryBus
from shoal_dhcp.events import Notice
from shoal_dhcp.outbox import BusOutbox
from shoal_dhcp.settings import Settings
from shoal_model.messages import BootEvent, MachineSeen
from shoal_model.subjects import Service
from shoal_service.settings import parse

AT = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
LOG = structlog.stdlib.get_logger()


def boot(node: str) -> Notice:
    return Notice(f"evt.boot.{node}.dhcp.offer", BootEvent(node=node, stage="dhcp.offer", at=AT), node)


def seen() -> Notice:
    return Notice("evt.machine.525400666666.seen", MachineSeen(mac="52:54:00:66:66:66", at=AT))


class Bus(MemoryBus):
    """One that `fails` for each event, or takes it, as the function says."""

    def __init__(self, fails: Callable[[str], Exception | None] = lambda subject: None) -> None:
        super().__init__()
        self.fails = fails
        self.stored: list[str] = []
        self.heard: list[str] = []
        self.taken = asyncio.Event()

    async def emit(self, subject: str, event: BaseModel, *, id: str | None = None) -> None:  # noqa: A002
        error = self.fails(subject)
        if error is not None:
            raise error
        self.stored.append(subject)
        self.taken.set()

    async def publish(self, subject: str, message: BaseModel) -> None:
        self.heard.append(subject)


async def test_boot_events_are_stored_and_unknown_machines_only_told_of() -> None:
    bus = Bus()
    outbox = BusOutbox(bus, LOG)
    outbox.put(boot("n1"))
    outbox.put(seen())
    assert await outbox.flush()
    assert (bus.stored, bus.heard) == (["evt.boot.n1.dhcp.offer"], ["evt.machine.525400666666.seen"])


async def test_when_it_is_full_the_oldest_is_lost_and_counted() -> None:
    bus = Bus()
    outbox = BusOutbox(bus, LOG, capacity=3)
    before = REGISTRY.get_sample_value("shoal_dhcp_notices_dropped_total") or 0.0
    for number in range(5):
        outbox.put(boot(f"n{number}"))
    await outbox.flush()
    assert [subject.split(".")[2] for subject in bus.stored] == ["n2", "n3", "n4"]
    assert REGISTRY.get_sample_value("shoal_dhcp_notices_dropped_total") == before + 2


async def test_what_the_bus_cannot_take_now_is_kept_in_order() -> None:
    bus = Bus(lambda subject: Unavailable("away"))
    outbox = BusOutbox(bus, LOG)
    for number in range(200):
        outbox.put(boot(f"n{number}"))
    assert not await outbox.flush()
    assert not await outbox.flush()
    bus.fails = lambda subject: None
    assert await outbox.flush()
    assert [subject.split(".")[2] for subject in bus.stored] == [f"n{number}" for number in range(200)]


async def test_what_the_bus_refuses_is_told_and_does_not_hold_up_the_rest() -> None:
    bus = Bus(lambda subject: Denied("not yours") if "n1" in subject else None)
    outbox = BusOutbox(bus, LOG)
    outbox.put(boot("n1"))
    outbox.put(boot("n2"))
    with capture_logs() as logs:
        assert await outbox.flush()
    assert bus.stored == ["evt.boot.n2.dhcp.offer"]
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("dhcp.notice_refused", "not yours")]


async def test_it_sends_as_soon_as_something_is_put_in() -> None:
    bus = Bus()
    outbox = BusOutbox(bus, LOG)
    sending = asyncio.create_task(outbox.run())
    async with asyncio.timeout(5):
        for number in range(3):
            outbox.put(boot(f"n{number}"))
            await bus.taken.wait()
            bus.taken.clear()
    assert len(bus.stored) == 3
    sending.cancel()


async def test_what_cannot_be_sent_at_the_end_is_counted_and_told() -> None:
    outbox = BusOutbox(Bus(lambda subject: Unavailable("away")), LOG)
    outbox.put(boot("n1"))
    with capture_logs() as logs:
        await outbox.close(0.5)
    assert [entry["event"] for entry in logs] == ["dhcp.bus_unavailable", "dhcp.notices_lost"]


class Stuck(Bus):
    async def emit(self, subject: str, event: BaseModel, *, id: str | None = None) -> None:  # noqa: A002
        await asyncio.Event().wait()


async def test_an_end_does_not_wait_for_a_stuck_bus_and_a_cancelled_batch_is_not_forgotten() -> None:
    outbox = BusOutbox(Stuck(), LOG)
    outbox.put(boot("n1"))
    with capture_logs() as logs:
        await outbox.close(0.01)
    assert logs == [{"event": "dhcp.notices_lost", "log_level": "warning", "count": 1}]


@pytest.mark.parametrize("name", ["", "a name", "eth/0", "0123456789abcdef"])
def test_what_can_be_no_interface_is_refused(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOAL_INTERFACE", raising=False)
    with pytest.raises(SystemExit, match="2"):
        parse(Service.DHCP, Settings, [f"--interface={name}"])
    assert "shoal-dhcp: SHOAL_INTERFACE (--interface): " in capsys.readouterr().err


def test_an_interface_is_taken_from_flag_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_INTERFACE", "eth1")
    assert parse(Service.DHCP, Settings, []).interface == "eth1"
    assert parse(Service.DHCP, Settings, ["--interface", "boot0"]).interface == "boot0"
