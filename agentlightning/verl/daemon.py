"""`AgentModeDaemon`: turns tasks into finished rollouts and their episodes, through the store.

Called by the loop in `trainer`. It enqueues, waits without polling the runners, and reads the spans back; who executes
the agents, and where, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentlightning.adapter import EpisodeAdapter
from agentlightning.semconv import LLM_CALL_NUMBER
from agentlightning.store.base import LightningStore
from agentlightning.types import (
    AttemptedRollout,
    DatasetError,
    EnqueueRolloutRequest,
    NamedResources,
    Rollout,
    RolloutConfig,
    RolloutMode,
)
from agentlightning.utils.seeds import stable_seed

from .sample import Sample
from .stepped import SteppedBatches

if TYPE_CHECKING:
    from agentlightning.llm_proxy import LLMProxy

SampleKey = tuple[str, int, int, int]
"""(mode, step, task index, sample index): names one rollout of a run. Greedy ones have indices below 0."""
GREEDY = "greedy"
"""What the gateway calls their sampling."""
WAIT_SECONDS = 0.5
"""How often a waiting step looks up to draw its progress; finished rollouts wake it earlier once all are done."""


class AgentModeDaemon(SteppedBatches):
    """Runs batches of tasks for a training loop: `run_batch` for our own, the methods of `SteppedBatches` for others.

    Args:
        store: Where rollouts are queued and recorded.
        adapters: For each policy, spans of a rollout -> the policy's episode.
        seed: The run's seed; every rollout gets a seed of its own from it.
        rollout_config: Timeout and retries of each rollout.
        finished: Rollouts of an earlier, interrupted execution of this run, by key; they are not run again where
            task and seed are the same.
        n, resources, llm_proxy, model, pad_token_id, fill: See `SteppedBatches`; `run_batch` does without.
    """

    def __init__(
        self,
        store: LightningStore,
        adapters: Mapping[str, EpisodeAdapter],
        *,
        seed: int,
        rollout_config: RolloutConfig,
        finished: Mapping[SampleKey, Rollout] | None = None,
        n: int = 1,
        resources: NamedResources | None = None,
        llm_proxy: LLMProxy | None = None,
        model: str | None = None,
        pad_token_id: int = 0,
        fill: float = 0.0,
    ) -> None:
        super().__init__(
            n=n, resources=resources, llm_proxy=llm_proxy, model=model, pad_token_id=pad_token_id, fill=fill
        )
        self._store = store
        self._adapters = adapters
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
        draws: Sequence[int] | None = None,
        greedy: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Sample]:
        """Run every task `n` times and wait for all of them.

        Args:
            tasks: (index, task) pairs.
            n: Rollouts a task.
            mode: `train` or `val`; the gateway samples accordingly.
            step: Training step that the rollouts belong to.
            resources_id: Resources that the agents use.
            draws: How often the step had drawn each task before; default never.
            greedy: Run one more rollout of each task, sampled greedily.
            on_progress: Called with (finished, all).

        Returns:
            One sample a rollout, sorted by task (in the order given) and sample, a greedy one last.
        """
        places = {
            (mode, step, index, number): draw
            for (index, _), draw in zip(tasks, draws or [0] * len(tasks), strict=True)
            for number in [*range(draw * n, (draw + 1) * n), *([-1 - draw] if greedy else [])]
        }
        keys: list[SampleKey] = list(places)
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
        return await self._samples([(key, rollouts[ids[key]]) for key in keys], places)

    async def recall(self, rollout_ids: Sequence[str]) -> list[Sample]:
        """Samples of earlier steps, by the ids of their rollouts; those that the store no longer has are left out."""
        if not rollout_ids:
            return []
        found = {rollout.rollout_id: rollout for rollout in await self._store.query_rollouts(rollout_id_in=rollout_ids)}
        known = [(key_of(rollout), rollout) for rollout in map(found.get, rollout_ids) if rollout is not None]
        return await self._samples(known, {key: 0 for key, _ in known})

    def _known(self, key: SampleKey, task: Any) -> Rollout | None:
        """The rollout of an interrupted execution that this one would repeat."""
        rollout = self._finished.get(key)
        same = rollout is not None and rollout.input == task and (rollout.metadata or {})["seed"] == self._seed_of(key)
        return rollout if same else None

    def _seed_of(self, key: SampleKey) -> int:
        return stable_seed(self._seed, *key)

    def _request(self, key: SampleKey, task: Any, mode: RolloutMode, resources_id: str) -> EnqueueRolloutRequest:
        _, step, index, sample = key
        metadata: dict[str, Any] = {"step": step, "task": index, "sample": sample, "seed": self._seed_of(key)}
        if sample < 0:
            metadata["sampling"] = GREEDY
        return EnqueueRolloutRequest(
            input=task, mode=mode, resources_id=resources_id, config=self._config, metadata=metadata
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

    async def _samples(self, finished: list[tuple[SampleKey, Rollout]], draws: Mapping[SampleKey, int]) -> list[Sample]:
        attempts = [
            (rollout.rollout_id, rollout.attempt.attempt_id)
            for _, rollout in finished
            if isinstance(rollout, AttemptedRollout)
        ]
        spans = await self._store.query_many_spans(attempts)
        return [
            Sample(
                task=key[2],
                sample=key[3],
                rollout=rollout,
                episodes={
                    name: adapter(spans.get(rollout.rollout_id, []), rollout.rollout_id)
                    for name, adapter in self._adapters.items()
                },
                error=_error(rollout),
                called=any(LLM_CALL_NUMBER in span.attributes for span in spans.get(rollout.rollout_id, [])),
                draw=draws[key],
                greedy=key[3] < 0,
            )
            for key, rollout in finished
        ]


def _error(rollout: Rollout) -> str | None:
    if rollout.status == "succeeded":
        return None
    if not isinstance(rollout, AttemptedRollout):
        return rollout.status
    error = (rollout.attempt.metadata or {}).get("error")
    return f"{error['type']}: {error['message']}" if error else rollout.attempt.status


def key_of(rollout: Rollout) -> SampleKey:
    """What names a rollout of a run, from its metadata."""
    at = rollout.metadata or {}
    return str(rollout.mode), at["step"], at["task"], at["sample"]
