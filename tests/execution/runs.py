"""A whole run for the tests of runner processes: a trainer, an algorithm that collects, a store in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.execution import ClientServerExecutionStrategy
from agentlightning.store.base import LightningStore
from agentlightning.types import AttemptedRollout

RETRY = agl.RolloutConfig(max_attempts=3, retry_condition=["unresponsive"])
During = Callable[[LightningStore, list[str]], Awaitable[None]]


class Collect(agl.Algorithm):
    """Enqueues every task with one configuration, lets the test do something, and waits for the ends."""

    def __init__(self, config: agl.RolloutConfig | None = None, during: During | None = None):
        self.config = config
        self.during = during
        self.done: list[AttemptedRollout] = []
        self.attempts: list[list[agl.Attempt]] = []
        self.rewards: list[float | None] = []
        self.workers: list[agl.Worker] = []

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        store = self.get_store()
        requests = [agl.EnqueueRolloutRequest(input=task, config=self.config) for task in train_dataset]
        ids = [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]
        if self.during is not None:
            await self.during(store, ids)
        self.done = list(await store.wait_for_rollouts(rollout_ids=ids))  # type: ignore[arg-type]
        self.attempts = [list(await store.query_attempts(rollout_id)) for rollout_id in ids]
        self.rewards = [agl.find_final_reward(list(await store.query_spans(i, "latest"))) for i in ids]
        self.workers = list(await store.query_workers())


def run(
    agent: Any,
    tasks: list[Any],
    tmp_path: Path,
    *,
    config: agl.RolloutConfig | None = None,
    during: During | None = None,
    max_concurrency: int = 1,
    hooks: Any = None,
    **options: Any,
) -> Collect:
    """Run `tasks` in runner processes; what came of them."""
    algorithm = Collect(config, during)
    trainer = agl.Trainer(
        algorithm=algorithm,
        strategy=ClientServerExecutionStrategy(**options),
        store=agl.InMemoryLightningStore(),
        max_concurrency=max_concurrency,
        hooks=hooks,
        run_dir=tmp_path / "run",
    )
    trainer.fit(agent, tasks)
    return algorithm
