"""`Baseline`: run every task once and report; learns nothing. The algorithm of `Trainer.dev`."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from agentlightning.emitter import find_final_reward
from agentlightning.types import AttemptedRollout, Dataset, EnqueueRolloutRequest, Rollout, RolloutMode

from .base import Algorithm

logger = logging.getLogger(__name__)


class Baseline(Algorithm):
    """Runs the train tasks `n_epochs` times, then the validation tasks once, and logs rewards and failures.

    Args:
        n_epochs: Times that each train task is run.

    After `run`, `rollouts` holds the finished rollouts and `rewards` their final rewards (`None`: there was none).
    """

    def __init__(self, *, n_epochs: int = 1) -> None:
        self.n_epochs = n_epochs
        self.rollouts: list[Rollout] = []
        self.rewards: list[float | None] = []

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Run the tasks through the store and wait for all of them."""
        store = self.get_store()
        if (resources := self.get_initial_resources()) is not None:
            await store.add_resources(resources)
        requests = [
            *self._requests(train_dataset, "train", self.n_epochs),
            *self._requests(val_dataset, "val", 1),
        ][: self.max_iterations]
        queued = await store.enqueue_many_rollouts(requests)
        self.rollouts = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in queued])
        for rollout in self.rollouts:
            attempt_id = rollout.attempt.attempt_id if isinstance(rollout, AttemptedRollout) else None
            spans = await store.query_spans(rollout.rollout_id, attempt_id)
            self.rewards.append(find_final_reward(list(spans)))
            logger.info(
                "%s %s: %s, reward %s, %d spans",
                rollout.mode,
                rollout.rollout_id,
                rollout.status,
                self.rewards[-1],
                len(spans),
            )
        logger.info("%d rollouts: %s", len(self.rollouts), dict(Counter(rollout.status for rollout in self.rollouts)))

    @staticmethod
    def _requests(dataset: Dataset[Any] | None, mode: RolloutMode, times: int) -> list[EnqueueRolloutRequest]:
        if dataset is None:
            return []
        tasks = [dataset[i] for i in range(len(dataset))]
        return [EnqueueRolloutRequest(input=task, mode=mode) for _ in range(times) for task in tasks]
