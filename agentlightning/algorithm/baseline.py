"""`Baseline`: run every task once and report; learns nothing. The algorithm of `Trainer.dev`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from agentlightning.emitter import find_final_reward
from agentlightning.types import (
    AttemptedRollout,
    Dataset,
    EnqueueRolloutRequest,
    Rollout,
    RolloutConfig,
    RolloutMode,
    Span,
)

from .base import FastAlgorithm

logger = logging.getLogger(__name__)


class Baseline(FastAlgorithm):
    """Runs the train tasks `n_epochs` times, then the validation tasks once, and logs rewards and failures.

    Args:
        n_epochs: Times that each train task is run.
        train_split: Accepted for 0.3, which doesn't use it either: give `Trainer.dev` two datasets.
        polling_interval: Accepted for 0.3: nothing is polled here, the store says when rollouts end.
        max_queue_length: Accepted for 0.3: the queue takes all tasks at once.
        span_verbosity: What the log says of each span: its attributes' `keys`, `key_values`, or `none` of them.

    After `run`, `rollouts` holds the finished rollouts and `rewards` their final rewards (`None`: there was none).
    """

    def __init__(
        self,
        *,
        n_epochs: int = 1,
        train_split: float = 0.5,
        polling_interval: float = 5.0,
        max_queue_length: int = 4,
        span_verbosity: Literal["keys", "key_values", "none"] = "keys",
    ) -> None:
        self.n_epochs = n_epochs
        self.span_verbosity = span_verbosity
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
            self._log_spans(spans)
        logger.info("%d rollouts: %s", len(self.rollouts), dict(Counter(rollout.status for rollout in self.rollouts)))

    def _log_spans(self, spans: Iterable[Span]) -> None:
        for span in spans if self.span_verbosity != "none" else ():
            shown = sorted(span.attributes) if self.span_verbosity == "keys" else span.attributes
            logger.info("    %d %s %s", span.sequence_id, span.name, shown)

    @staticmethod
    def _requests(dataset: Dataset[Any] | None, mode: RolloutMode, times: int) -> list[EnqueueRolloutRequest]:
        if dataset is None:
            return []
        tasks = [dataset[i] for i in range(len(dataset))]
        # A lost worker costs another try, not the task.
        config = RolloutConfig(max_attempts=3, retry_condition=["unresponsive"])
        return [EnqueueRolloutRequest(input=task, mode=mode, config=config) for _ in range(times) for task in tasks]
