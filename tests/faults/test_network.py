"""Requests and answers that are lost, late or doubled between the store and those who use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlightning.store import LightningStoreClient
from agentlightning.types import EnqueueRolloutRequest

from .proxy import FAULTS, FaultyProxy
from .world import RETRY, ROUNDS, World, chance

pytestmark = pytest.mark.timeout(60 + 10 * ROUNDS)


async def test_a_bad_network(fault_home: str, tmp_path: Path) -> None:
    async with World(tmp_path, fault_home) as world, FaultyProxy(world.url, chance("network")) as proxy:
        world.start_store()
        await world.publish()  # waits until the server is there
        client = LightningStoreClient(proxy.url)
        world.start_runners(url=proxy.url)
        proxy.faulty = True
        everything: list[str] = []
        for number in range(ROUNDS):
            task = {"spans": 3, "seconds": 0.01, "number": number}
            rollouts = await client.enqueue_many_rollouts([EnqueueRolloutRequest(input=task, config=RETRY)] * 4)
            everything += [rollout.rollout_id for rollout in rollouts]
            version = (await client.update_resources("rs-counted", {})).version
            assert version == number + 1  # repeated requests count once
        done = await client.wait_for_rollouts(rollout_ids=everything, timeout=120)
        assert len(done) == len(everything)
        await client.close()
        await world.check(everything)
        assert (await world.client.statistics())["total_rollouts"] == len(everything)
        assert all(proxy.done[fault] for fault in FAULTS), proxy.done
