"""`kill -9` of runners, the store's server and the database, at random moments, again and again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ..postgres import PostgresServer
from .world import ROUNDS, World, chance, child_of, kill

pytestmark = pytest.mark.timeout(60 + 10 * ROUNDS)


@pytest.mark.parametrize("victim", ["runner", "server"])
async def test_killed_processes(victim: str, fault_home: str, tmp_path: Path) -> None:
    moments = chance(f"{victim} on {fault_home.split(':')[0][-10:]}")
    async with World(tmp_path, fault_home) as world:
        store, runners = world.start_store(), world.start_runners()
        everything: list[str] = []
        for _ in range(ROUNDS):
            ids = await world.enqueue(6, seconds=0.1)  # still under way then
            everything += ids
            await asyncio.sleep(moments.uniform(0, 0.25))
            kill(await child_of(store if victim == "server" else runners, moments))
            await world.publish()
            await world.ended(ids)
        await world.check(everything)
        if victim == "runner":
            lost = [
                attempt
                for rollout_id in everything
                for attempt in await world.client.query_attempts(rollout_id)
                if attempt.status == "unresponsive"
            ]
            told = [attempt for attempt in lost if "RunnerDied" in str(attempt.metadata)]
            assert told or not lost, "no parent of a killed runner said what became of its attempts"


async def test_killed_database(mortal_postgres: PostgresServer, tmp_path: Path) -> None:
    moments = chance("database")
    async with World(tmp_path, mortal_postgres.new_database()) as world:
        world.start_store()
        world.start_runners()
        everything: list[str] = []
        for _ in range(ROUNDS):
            ids = await world.enqueue(6)
            everything += ids
            await asyncio.sleep(moments.uniform(0, 0.25))
            mortal_postgres.kill()
            await asyncio.sleep(moments.uniform(0, 0.3))
            await asyncio.to_thread(mortal_postgres.start)
            await world.publish()
            await world.ended(ids)
        await world.check(everything)
