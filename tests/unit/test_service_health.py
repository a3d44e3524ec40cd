"""When a service is ready, and the pages that say so."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from shoal_service.errors import Fatal
from shoal_service.health import LOST_FOR_LONG, Readiness, served


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def readiness(clock: Clock) -> Readiness:
    return Readiness(clock)


def test_a_service_is_ready_from_when_it_says_so_until_it_stops(readiness: Readiness) -> None:
    assert readiness.reason(connected=True) == "starting"
    readiness.ready()
    assert readiness.reason(connected=True) is None
    readiness.stop()
    assert readiness.reason(connected=True) == "stopping"
    readiness.ready()
    assert readiness.reason(connected=True) == "stopping"


def test_a_short_loss_of_the_bus_does_not_matter_and_a_long_one_does(readiness: Readiness, clock: Clock) -> None:
    readiness.ready()
    assert readiness.reason(connected=True) is None
    clock.now += LOST_FOR_LONG
    assert readiness.reason(connected=False) is None
    clock.now += 1
    assert readiness.reason(connected=False) == "the bus has been lost for 11 s"
    assert readiness.reason(connected=True) is None
    assert readiness.reason(connected=False) is None


@pytest.fixture
async def pages(readiness: Readiness, clock: Clock) -> AsyncIterator[str]:
    async with served("127.0.0.1:0", readiness, lambda: False, lambda: {"dropped": 3}) as port:
        yield f"http://127.0.0.1:{port}"


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_the_pages(pages: str, readiness: Readiness, clock: Clock) -> None:
    assert await get(f"{pages}/healthz") == (200, "ok\n")
    assert await get(f"{pages}/readyz") == (503, "starting\n")
    readiness.ready()
    assert await get(f"{pages}/readyz") == (200, "ok\n")
    status, text = await get(f"{pages}/metrics")
    assert status == 200
    assert "shoal_ready 1.0" in text
    assert 'shoal_bus_problems_total{kind="dropped"} 3.0' in text
    clock.now += LOST_FOR_LONG + 5
    assert await get(f"{pages}/readyz") == (503, "the bus has been lost for 15 s\n")
    assert "shoal_ready 0.0" in (await get(f"{pages}/metrics"))[1]
    assert (await get(f"{pages}/other"))[0] == 404


async def test_an_address_that_cannot_be_had_is_fatal(pages: str) -> None:
    taken = pages.removeprefix("http://")
    with pytest.raises(Fatal, match=f"cannot serve /metrics at {taken}: .*set SHOAL_METRICS"):
        async with served(taken, Readiness(), lambda: True, dict):
            raise AssertionError
