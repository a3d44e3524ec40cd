"""Events behind a bounded queue: in order, never waited for, never lost in silence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from shoal_bus.errors import BusError, Invalid, Unavailable
from shoal_model.messages import BootEvent
from shoal_model.subjects import Stage
from shoal_tftp import announcer
from shoal_tftp.announcer import Announcer


class Bus:
    """A bus that fails as often as it is told."""

    def __init__(self, failures: list[BusError] | None = None) -> None:
        self.failures = failures or []
        self.taken: list[tuple[str, str | None]] = []

    async def emit(self, subject: str, event: BootEvent, *, id: str | None = None) -> None:  # noqa: A002
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append((subject, id))


def event(node: str) -> BootEvent:
    return BootEvent(node=node, stage=Stage.LOADER_KERNEL, at=datetime(2026, 11, 20, tzinfo=UTC), boot="b")


def lost() -> float:
    return REGISTRY.get_sample_value("shoal_tftp_events_lost_total") or 0.0


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Announcer]:
    announce = Announcer(bus)
    sending = asyncio.create_task(announce.run())
    yield announce
    await announce.drain()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_events_go_out_in_order() -> None:
    bus = Bus()
    async with running(bus) as announce:
        for node in ("n1", "n2", "n3"):
            announce(event(node))
    assert [subject for subject, _ in bus.taken] == [f"evt.boot.n{n}.loader.kernel" for n in (1, 2, 3)]


async def test_while_the_bus_is_away_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer, "_PAUSE", 0.0)
    before, bus = lost(), Bus([Unavailable("away")] * 5)
    async with running(bus) as announce:
        announce(event("n1"))
        announce(event("n2"))
    assert [subject for subject, _ in bus.taken] == ["evt.boot.n1.loader.kernel", "evt.boot.n2.loader.kernel"]
    assert lost() == before


async def test_what_the_bus_refuses_is_counted_and_the_next_one_goes_out() -> None:
    before, bus = lost(), Bus([Invalid("no")])
    async with running(bus) as announce:
        announce(event("n1"))
        announce(event("n2"))
    assert [subject for subject, _ in bus.taken] == ["evt.boot.n2.loader.kernel"]
    assert lost() == before + 1


async def test_a_bus_that_stays_away_costs_the_event_not_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer, "_PAUSE", 0.0)
    before, bus = lost(), Bus([Unavailable("away")] * 60)
    async with running(bus) as announce:
        announce(event("n1"))
        announce(event("n2"))
    assert len(bus.taken) == 1
    assert lost() == before + 1


async def test_the_queue_is_bounded() -> None:
    before, announce = lost(), Announcer(Bus())
    for _ in range(5000):
        announce(event("n1"))
    assert lost() == before + 5000 - 4096


async def test_the_same_event_has_the_same_id_on_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer, "_PAUSE", 0.0)
    bus = Bus()
    async with running(bus) as announce:
        announce(event("n1"))
        announce(event("n1"))
        announce(event("n2"))
    ids = [identity for _, identity in bus.taken]
    assert ids[0] == ids[1] != ids[2]
