"""Runners that stand still for a while, and clocks that jump."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from agentlightning.types import RolloutConfig

from .world import World, chance, child_of, until

BRISK = RolloutConfig(max_attempts=50, retry_condition=["unresponsive"], unresponsive_seconds=1.0)


async def test_a_runner_that_stands_still_and_goes_on(fault_home: str, tmp_path: Path) -> None:
    """Its rollouts are done by others meanwhile; what it writes afterwards counts for nothing."""
    moments = chance("standstill")
    async with World(tmp_path, fault_home) as world:
        world.start_store()
        still = world.start_runners(processes=1)
        ids = await world.enqueue(4, spans=40, seconds=0.1, config=BRISK)
        await until(lambda: len(world.acknowledged_spans()) == 4, "all four are under way")
        child = await child_of(still, moments)
        child.send_signal(signal.SIGSTOP)
        world.start_runners(processes=1)
        await world.ended(ids)
        before = {rollout_id: await _spans_of_the_dead(world, rollout_id) for rollout_id in ids}
        child.send_signal(signal.SIGCONT)
        more = await world.enqueue(8, config=BRISK)  # the runner is of use again
        await world.ended(more)
        await asyncio.sleep(1.0)  # its agents, which pause for 0.1 s between two spans, have tried to write
        await world.check([*ids, *more])
        for rollout_id in ids:
            attempts = list(await world.client.query_attempts(rollout_id))
            assert [attempt.status for attempt in attempts] == ["unresponsive", "succeeded"]
            assert await _spans_of_the_dead(world, rollout_id) == before[rollout_id]


async def _spans_of_the_dead(world: World, rollout_id: str) -> set[str]:
    """Of the first attempt."""
    (first, *_) = await world.client.query_attempts(rollout_id)
    return {span.span_id for span in await world.client.query_spans(rollout_id, first.attempt_id)}


CLOCK = """
import os, time
_time, _file = time.time, os.environ["FAULT_CLOCK"]
def jumping():
    try:
        with open(_file) as file:
            return _time() + float(file.read() or 0)
    except FileNotFoundError:
        return _time()
time.time = jumping
"""


async def test_clocks_that_jump(fault_home: str, tmp_path: Path) -> None:
    """An hour forwards and a day back, for the store and the runners: no attempt ends for it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CLOCK)
    clock = tmp_path / "clock"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "FAULT_CLOCK": str(clock)}
    config = RolloutConfig(unresponsive_seconds=20.0, timeout_seconds=60.0)
    async with World(tmp_path, fault_home) as world:
        world.start_store(**environment)
        world.start_runners(**environment)
        ids = await world.enqueue(8, spans=30, seconds=0.1, config=config)
        await until(lambda: len(world.acknowledged_spans()) >= 4, "some are under way")
        clock.write_text("3600")
        await asyncio.sleep(1.5)
        clock.write_text("-86400")
        await world.check(ids)
        for rollout_id in ids:
            assert len(list(await world.client.query_attempts(rollout_id))) == 1
