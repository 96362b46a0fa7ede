"""`AgentModeDaemon`: turns tasks into finished rollouts and their episodes, through the store.

Called by the loop in `trainer`. It enqueues, waits without polling the runners, and reads the spans back; who executes
the agents, and where, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentlightning.adapter import EpisodeAdapter
from agentlightning.semconv import LLM_CALL_NUMBER
from agentlightning.store.base import LightningStore
from agentlightning.types import (
    AttemptedRollout,
    DatasetError,
    EnqueueRolloutRequest,
    Episode,
    Rollout,
    RolloutConfig,
    RolloutMode,
)

from .tasks import stable_seed

SampleKey = tuple[str, int, int, int]
"""(mode, step, task index, sample index): names one rollout of a run."""
WAIT_SECONDS = 0.5
"""How often a waiting step looks up to draw its progress; finished rollouts wake it earlier once all are done."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished rollout of a task."""

    task: int
    """Index of the task: rollouts of one task in one step form a group."""
    sample: int
    rollout: Rollout
    episode: Episode
    error: str | None
    """Why the attempt failed; `None` where it did not."""
    called: bool = True
    """Whether there is a call of a model in its spans, whatever the adapter made of them."""

    @property
    def torn(self) -> bool:
        """Whether the rollout can't be trained on, through no fault of the policy's.

        It never reached the model, was cut off from outside, failed after the model's endpoint had failed it, or a call
        was answered without its token ids.
        """
        attempt = self.rollout.attempt if isinstance(self.rollout, AttemptedRollout) else None
        cut_off = attempt is None or attempt.status in ("timeout", "unresponsive")
        return (
            cut_off
            or self.rollout.status == "cancelled"
            or not self.episode.turns
            or self.episode.missing_token_ids > 0
            or (self.error is not None and self.episode.backend_failures > 0)
        )


class AgentModeDaemon:
    """Runs batches of tasks for a training loop.

    Args:
        store: Where rollouts are queued and recorded.
        adapter: Spans of a rollout -> its episode.
        seed: The run's seed; every rollout gets a seed of its own from it.
        rollout_config: Timeout and retries of each rollout.
        finished: Rollouts of an earlier, interrupted execution of this run, by key; they are not run again where
            task and seed are the same.
    """

    def __init__(
        self,
        store: LightningStore,
        adapter: EpisodeAdapter,
        *,
        seed: int,
        rollout_config: RolloutConfig,
        finished: Mapping[SampleKey, Rollout] | None = None,
    ) -> None:
        self._store = store
        self._adapter = adapter
        self._seed = seed
        self._config = rollout_config
        self._finished = dict(finished or {})

    async def run_batch(
        self,
        tasks: Sequence[tuple[int, Any]],
        *,
        n: int,
        mode: RolloutMode,
        step: int,
        resources_id: str,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Sample]:
        """Run every task `n` times and wait for all of them.

        Args:
            tasks: (index, task) pairs.
            n: Rollouts a task.
            mode: `train` or `val`; the gateway samples accordingly.
            step: Training step that the rollouts belong to.
            resources_id: Resources that the agents use.
            on_progress: Called with (finished, all).

        Returns:
            One sample a rollout, sorted by task (in the order given) and sample.
        """
        keys: list[SampleKey] = [(mode, step, index, sample) for index, _ in tasks for sample in range(n)]
        inputs = dict(tasks)
        ids = {key: known.rollout_id for key in keys if (known := self._known(key, inputs[key[2]])) is not None}
        missing = [key for key in keys if key not in ids]
        try:
            queued = await self._store.enqueue_many_rollouts(
                [self._request(key, inputs[key[2]], mode, resources_id) for key in missing]
            )
        except TypeError as error:
            raise DatasetError(f"a task can't be stored: {error}; tasks are JSON values") from error
        ids |= {key: rollout.rollout_id for key, rollout in zip(missing, queued, strict=True)}
        rollouts = await self._wait([ids[key] for key in keys], on_progress)
        return await self._samples([(key, rollouts[ids[key]]) for key in keys])

    def _known(self, key: SampleKey, task: Any) -> Rollout | None:
        """The rollout of an interrupted execution that this one would repeat."""
        rollout = self._finished.get(key)
        same = rollout is not None and rollout.input == task and (rollout.metadata or {})["seed"] == self._seed_of(key)
        return rollout if same else None

    def _seed_of(self, key: SampleKey) -> int:
        return stable_seed(self._seed, *key)

    def _request(self, key: SampleKey, task: Any, mode: RolloutMode, resources_id: str) -> EnqueueRolloutRequest:
        _, step, index, sample = key
        return EnqueueRolloutRequest(
            input=task,
            mode=mode,
            resources_id=resources_id,
            config=self._config,
            metadata={"step": step, "task": index, "sample": sample, "seed": self._seed_of(key)},
        )

    async def _wait(self, rollout_ids: list[str], on_progress: Callable[[int, int], None] | None) -> dict[str, Rollout]:
        done: dict[str, Rollout] = {}
        pending = rollout_ids
        while pending:
            finished = await self._store.wait_for_rollouts(rollout_ids=pending, timeout=WAIT_SECONDS)
            done.update({rollout.rollout_id: rollout for rollout in finished})
            pending = [rollout_id for rollout_id in pending if rollout_id not in done]
            if on_progress is not None:
                on_progress(len(done), len(rollout_ids))
        return done

    async def _samples(self, finished: list[tuple[SampleKey, Rollout]]) -> list[Sample]:
        attempts = [
            (rollout.rollout_id, rollout.attempt.attempt_id)
            for _, rollout in finished
            if isinstance(rollout, AttemptedRollout)
        ]
        spans = await self._store.query_many_spans(attempts)
        return [
            Sample(
                task=index,
                sample=sample,
                rollout=rollout,
                episode=self._adapter(spans.get(rollout.rollout_id, []), rollout.rollout_id),
                error=_error(rollout),
                called=any(LLM_CALL_NUMBER in span.attributes for span in spans.get(rollout.rollout_id, [])),
            )
            for (_, _, index, sample), rollout in finished
        ]


def _error(rollout: Rollout) -> str | None:
    if rollout.status == "succeeded":
        return None
    if not isinstance(rollout, AttemptedRollout):
        return rollout.status
    error = (rollout.attempt.metadata or {}).get("error")
    return f"{error['type']}: {error['message']}" if error else rollout.attempt.status


async def finished_rollouts(
    store: LightningStore, *, after_step: int, until_step: int | None
) -> dict[SampleKey, Rollout]:
    """What an interrupted execution of the run left in the store and need not be run again.

    Failed rollouts are: the interruption itself may have failed them, and an agent's own failure repeats itself.

    Args:
        after_step: The checkpoint's step; rollouts of earlier steps are history.
        until_step: Last step whose rollouts may be used; `None`: all.

    Returns:
        Succeeded rollouts by key.
    """
    usable: dict[SampleKey, Rollout] = {}
    for rollout in await store.query_rollouts(status_in=["succeeded"]):
        at = rollout.metadata or {}
        if rollout.mode is None or not {"step", "task", "sample", "seed"} <= at.keys():
            continue
        if at["step"] > after_step and (until_step is None or at["step"] <= until_step):
            usable[(rollout.mode, at["step"], at["task"], at["sample"])] = rollout
    return usable
