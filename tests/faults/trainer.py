"""A trainer that can be killed: `python -m tests.faults.trainer RUN_DIR STORE STEPS`. Started by `test_trainer`.

Each step wants four rollouts that succeeded; those of an earlier, killed trainer count.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.execution import ClientServerExecutionStrategy
from agentlightning.types import EnqueueRolloutRequest

from .agent import note, noting
from .world import RETRY

TASK = {"spans": 2, "seconds": 0.01}


class Steps(agl.Algorithm):
    """Does one step after the other, four rollouts each; the store says which are missing."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        store = self.get_store()
        succeeded = await store.query_rollouts(status_in=["succeeded"])
        done = Counter((rollout.metadata or {})["step"] for rollout in succeeded)
        for step in range(self._steps):
            request = EnqueueRolloutRequest(input=TASK, config=RETRY, metadata={"step": step})
            if missing := max(4 - done[step], 0):
                queued = await store.enqueue_many_rollouts([request] * missing)
                for rollout in await store.wait_for_rollouts(rollout_ids=[each.rollout_id for each in queued]):
                    note("result", str(step), rollout.rollout_id, rollout.status)
        note("finished", str(self._steps))


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
