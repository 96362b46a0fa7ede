"""The disk is full: what was acknowledged stays, what was not is refused, and with space again the work goes on."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

from agentlightning.store import LightningStoreClient
from agentlightning.types import StoreError

from .world import World

LIMIT = 4 * 2**20


async def test_disk_full(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    home = str(tmp_path / "store.sqlite")
    async with World(tmp_path, home) as world:
        store = world.start_store(preexec=_limit_files)
        hasty = LightningStoreClient(world.url, retry_delays=(0.1, 0.2, 0.4, 0.8, 1.6))
        acknowledged: list[str] = []
        with contextlib.suppress(StoreError):
            while len(acknowledged) < 200:
                acknowledged += [(await hasty.enqueue_rollout("x" * 100_000)).rollout_id]
        assert 0 < len(acknowledged) < 200, "the disk was never full"
        known = {rollout.rollout_id for rollout in await hasty.query_rollouts()}
        assert known >= set(acknowledged)  # reading still works
        await hasty.close()
        store.terminate()
        store.wait()
        world.start_store()
        acknowledged.append((await world.client.enqueue_rollout("y")).rollout_id)
        assert {rollout.rollout_id for rollout in await world.client.query_rollouts()} >= set(acknowledged)


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
