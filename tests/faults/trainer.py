"""A trainer that can be killed: `python -m tests.faults.trainer RUN_DIR STORE STEPS`. Started by `test_trainer`.

Each step wants four rollouts that succeeded; those of an earlier, killed trainer count.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.execution import ClientServerExecutionStrategy
from agentlightning.types import EnqueueRolloutRequest

from .agent import note, noting
from .world import RETRY

TASK = {"spans": 2, "seconds": 0.01}


class Steps(agl.Algorithm):
    """Does one step after the other; the store says what is missing."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        store = self.get_store()
        for step in range(self._steps):
            done = [r.rollout_id for r in await self._succeeded() if (r.metadata or {})["step"] == step]
            request = EnqueueRolloutRequest(input=TASK, config=RETRY, metadata={"step": step})
            queued = await store.enqueue_many_rollouts([request] * (4 - len(done)))
            done += [rollout.rollout_id for rollout in queued]
            for rollout in await store.wait_for_rollouts(rollout_ids=done):
                note("result", str(step), rollout.rollout_id, rollout.status)
        note("finished", str(self._steps))

    async def _succeeded(self) -> Sequence[agl.Rollout]:
        return await self.get_store().query_rollouts(status_in=["succeeded"])


def main(run_dir: str, home: str, steps: str) -> None:
    store = None if home == "sqlite" else agl.SqlLightningStore(home)
    trainer = agl.Trainer(
        algorithm=Steps(int(steps)),
        strategy=ClientServerExecutionStrategy(n_runners=2),
        store=store,
        run_dir=run_dir,
    )
    trainer.fit(noting, [TASK], resume=Path(run_dir).exists())


if __name__ == "__main__":
    main(*sys.argv[1:])
