"""A trainer with runner processes is killed again and again and resumed; and two trainers on one store."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import psutil
import pytest

from agentlightning.store import SqlLightningStore
from agentlightning.types import TERMINAL_ATTEMPT

from .world import PATIENCE_S, ROUNDS, World, chance, descendants, until

pytestmark = pytest.mark.timeout(60 + 20 * ROUNDS)


async def test_a_trainer_that_is_killed_and_resumed(fault_home: str, tmp_path: Path) -> None:
    moments = chance("trainer")
    run_dir, home = tmp_path / "run", "sqlite" if "://" not in fault_home else fault_home
    steps = str(8 * ROUNDS)
    async with World(tmp_path, fault_home) as world:
        for _ in range(ROUNDS):
            trainer = world.start("-m", "tests.faults.trainer", str(run_dir), home, steps, name="trainer")
            await _first_step_of(world, trainer)
            await asyncio.sleep(moments.uniform(0, 0.3))
            children = descendants(trainer.pid)
            trainer.kill()
            trainer.wait()
            await asyncio.to_thread(psutil.wait_procs, children, timeout=PATIENCE_S)
            assert not [child for child in children if child.is_running()], "runners outlive their trainer"
        trainer = world.start("-m", "tests.faults.trainer", str(run_dir), home, steps, name="trainer")
        assert await asyncio.to_thread(trainer.wait, PATIENCE_S + int(steps)) == 0, world.logs()  # it does most of them
        await _check(world, home if home != "sqlite" else str(run_dir / "store.sqlite"), int(steps))


async def _first_step_of(world: World, trainer: psutil.Popen) -> None:
    """Until this trainer has done something: one that is killed while it starts teaches little."""
    before = world.notes.read_text().count("result")
    changed = lambda: trainer.poll() is not None or world.notes.read_text().count("result") > before  # noqa: E731
    await until(changed, "the trainer has done a step")
    assert trainer.poll() is None, world.logs()


async def _check(world: World, home: str, steps: int) -> None:
    store = SqlLightningStore(home)
    try:
        rollouts = {rollout.rollout_id: rollout for rollout in await store.query_rollouts()}
        results = [line.split()[1:] for line in world.notes.read_text().splitlines() if line.startswith("result ")]
        succeeded = [rollout for rollout in rollouts.values() if rollout.status == "succeeded"]
        by_step = Counter((rollout.metadata or {})["step"] for rollout in succeeded)
        assert set(by_step) == set(range(steps))
        assert min(by_step.values()) == 4  # more where a trainer was killed while they were under way
        for _, rollout_id, status in results:
            assert rollouts[rollout_id].status == status == "succeeded"
        assert all(rollout.end_time is not None for rollout in rollouts.values())
        noted = world.acknowledged_spans()
        for rollout_id in rollouts:
            attempts = list(await store.query_attempts(rollout_id))
            assert all(attempt.status in TERMINAL_ATTEMPT for attempt in attempts)
            assert [attempt.status for attempt in attempts].count("succeeded") <= 1
            spans = {span.span_id for span in await store.query_spans(rollout_id)}
            assert noted.get(rollout_id, set()) <= spans
    finally:
        await store.close()


async def test_two_trainers_on_one_store(fault_home: str, tmp_path: Path) -> None:
    """Each waits for its own rollouts; the runners serve both."""
    async with World(tmp_path, fault_home) as world:
        world.start_store()
        world.start_runners()
        mine, theirs = await asyncio.gather(world.enqueue(30), world.enqueue(30))
        assert not set(mine) & set(theirs)
        await asyncio.gather(world.check(mine), world.check(theirs))


async def test_a_second_trainer_on_one_run_is_refused(tmp_path: Path) -> None:
    async with World(tmp_path, "unused") as world:
        command = ("-m", "tests.faults.trainer", str(tmp_path / "run"), "sqlite")
        first = world.start(*command, "1000", name="first")
        await _first_step_of(world, first)
        second = world.start(*command, "1000", name="second")
        assert await asyncio.to_thread(second.wait, PATIENCE_S) != 0
        assert "is in use by process" in (tmp_path / "second.log").read_text()
        assert first.poll() is None
