"""Nodes that come all at once, with TLS and the callout: every one is let in, whatever becomes of a replica."""

import asyncio
from pathlib import Path

import pytest

from lab import storming


@pytest.mark.parametrize("agents", [300, pytest.param(5000, marks=pytest.mark.soak)])
async def test_all_that_come_at_once_are_let_in(tmp_path: Path, agents: int) -> None:
    async with storming.guarded(tmp_path, agents) as storm:
        outcome = await storm.run(agents, spread=agents / 500, within=150)
    assert outcome.failures == []
    assert len(outcome.seconds) == agents


@pytest.mark.parametrize("agents", [300, pytest.param(5000, marks=pytest.mark.soak)])
async def test_all_are_let_in_when_a_replica_of_auth_is_killed_meanwhile(tmp_path: Path, agents: int) -> None:
    async with storming.guarded(tmp_path, agents) as storm:
        running = asyncio.create_task(storm.run(agents, spread=agents / 250, within=150))
        await asyncio.wait({running}, timeout=agents / 500)
        assert not running.done()
        storm.services["auth"].kill()
        outcome = await running
    assert outcome.failures == []
    assert len(outcome.seconds) == agents
