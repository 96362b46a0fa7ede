"""`Evaluation`: run every task n times in validation mode and keep what each answer earned. Learns nothing.

Called by `agl eval`, through `Trainer.dev`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentlightning.adapter.reading import answer_messages
from agentlightning.emitter import find_final_reward, get_reward_labels, get_rewards_from_span
from agentlightning.semconv import LLM_CALL_SPAN
from agentlightning.types import AttemptedRollout, Dataset, EnqueueRolloutRequest, Rollout, RolloutConfig
from agentlightning.utils.seeds import stable_seed

from .baseline import Baseline

_LOOK_SECONDS = 0.5
"""How often progress is drawn."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One rollout of one task."""

    task: int
    """Index in the dataset."""
    sample: int
    """Which of the n it is, from 0."""
    rollout: Rollout
    reward: float | None
    """The final reward; `None` where there is none."""
    rewards: dict[str, float]
    """By name: the last value of each dimension."""
    labels: dict[str, str]
    """By name: texts that came with the reward, such as `pred`."""
    text: str
    """What the last call of the LLM answered; empty where it answered no text."""
    calls: int
    """Of the LLM."""

    @property
    def error(self) -> dict[str, str]:
        """Type, message and traceback of what its last attempt failed with; empty if it did not."""
        if isinstance(self.rollout, AttemptedRollout) and self.rollout.attempt.metadata:
            return self.rollout.attempt.metadata.get("error") or {}
        return {}


class Evaluation(Baseline):
    """Runs the train and validation tasks alike, each `n` times.

    Args:
        n: Rollouts of each task.
        seed: Each rollout gets a seed of its own from it, for engines that take one.
        timeout_seconds: A rollout that runs longer has failed; `None` waits for ever.
        on_progress: Called with (finished, all).

    After `run`, `answers` holds what became of each, sorted by task and sample.
    """

    def __init__(
        self,
        *,
        n: int = 1,
        seed: int = 42,
        timeout_seconds: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.n = n
        self.seed = seed
        self.config = RolloutConfig(timeout_seconds=timeout_seconds, max_attempts=3, retry_condition=["unresponsive"])
        self.on_progress = on_progress
        self.answers: list[Answer] = []

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Run the tasks through the store and wait for all of them."""
        store = self.get_store()
        if (resources := self.get_initial_resources()) is not None:
            await store.add_resources(resources)
        tasks = [d[i] for d in (train_dataset, val_dataset) if d is not None for i in range(len(d))]
        places = [(task, sample) for task in range(len(tasks)) for sample in range(self.n)]
        queued = await store.enqueue_many_rollouts([self._request(tasks[task], task, k) for task, k in places])
        finished = await self._wait([rollout.rollout_id for rollout in queued])
        for (task, sample), rollout in zip(places, queued, strict=True):
            self.answers.append(await self._answer(task, sample, finished[rollout.rollout_id]))
        self.rollouts = [answer.rollout for answer in self.answers]
        self.rewards = [answer.reward for answer in self.answers]

    def _request(self, task: Any, index: int, sample: int) -> EnqueueRolloutRequest:
        seed = stable_seed(self.seed, index, sample)
        return EnqueueRolloutRequest(
            input=task, mode="val", config=self.config, metadata={"task": index, "sample": sample, "seed": seed}
        )

    async def _wait(self, rollout_ids: list[str]) -> dict[str, Rollout]:
        done: dict[str, Rollout] = {}
        pending = rollout_ids
        while pending:
            finished = await self.get_store().wait_for_rollouts(rollout_ids=pending, timeout=_LOOK_SECONDS)
            done.update({rollout.rollout_id: rollout for rollout in finished})
            pending = [rollout_id for rollout_id in pending if rollout_id not in done]
            if self.on_progress is not None:
                self.on_progress(len(done), len(rollout_ids))
        return done

    async def _answer(self, task: int, sample: int, rollout: Rollout) -> Answer:
        attempt_id = rollout.attempt.attempt_id if isinstance(rollout, AttemptedRollout) else None
        spans = list(await self.get_store().query_spans(rollout.rollout_id, attempt_id))
        calls = [span for span in spans if span.name == LLM_CALL_SPAN]
        said = [message.get("content") for message in answer_messages(calls[-1])] if calls else []
        return Answer(
            task,
            sample,
            rollout,
            reward=find_final_reward(spans),
            rewards={each.name: each.value for span in spans for each in get_rewards_from_span(span)},
            labels={name: text for span in spans for name, text in get_reward_labels(span).items()},
            text="".join(part for part in said if isinstance(part, str)),
            calls=len(calls),
        )
