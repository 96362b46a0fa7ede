"""`Trials`: rollouts of candidates through the store, each (prompts, task, repeat) paid once.

Called by `loop` and by the strategies. What was run before, in this process or in one that was killed, is found in the
store: a rollout's metadata says which prompts it had, by their content, and which task.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentlightning.adapter import TraceToMessages
from agentlightning.store.base import LightningStore
from agentlightning.types import (
    AttemptedRollout,
    ConfigError,
    Dataset,
    DatasetError,
    EnqueueRolloutRequest,
    NamedResources,
    PromptTemplate,
    Rollout,
    RolloutConfig,
    Span,
)
from agentlightning.utils.seeds import stable_seed

from .budget import Ledger
from .candidate import Candidate, content_key
from .outcome import Outcome, Place, Split
from .reading import outcome_of

logger = logging.getLogger(__name__)

METADATA = "apo"
"""Key of a rollout's metadata that says what it tried."""
_LATE = "late"
_LOOK_SECONDS = 0.5
"""How often progress is drawn, and a batch's time looked at."""
_FIRST = 4
"""Rollouts by which it is seen whether agents work at all."""
_AT_ONCE = 500
"""Rollouts whose spans are asked for in one request."""
Key = tuple[str, Place]


class Trials:
    """Runs candidates on tasks.

    Args:
        store: Where runners take rollouts from.
        resources: What agents get, the tuned prompts among it; candidates replace those.
        datasets: The tasks of each split.
        ledger: What may be spent.
        seed: Each rollout gets a seed of its own from it, for engines that take one.
        scope: Whose rollouts these are, in a store of several runs; another scope, another cache.
        batch_timeout: Seconds after which rollouts of one `run` that have not ended are cancelled and count as failed.
        adapter: Reads the LLM calls' messages.
        on_progress: Called with (finished, all) of the rollouts under way.
    """

    def __init__(
        self,
        store: LightningStore,
        resources: NamedResources,
        datasets: Mapping[Split, Dataset[Any]],
        ledger: Ledger,
        *,
        seed: int = 0,
        scope: str = "",
        batch_timeout: float | None = None,
        adapter: TraceToMessages | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._store = store
        self._resources = resources
        self._tasks = {split: [data[i] for i in range(len(data))] for split, data in datasets.items()}
        self._task_keys = {split: _keys(tasks) for split, tasks in self._tasks.items()}
        self._places = {(split, key): i for split, keys in self._task_keys.items() for i, key in enumerate(keys)}
        self._ledger = ledger
        self._seed = seed
        self._scope = scope
        self._batch_timeout = batch_timeout
        self._adapter = adapter or TraceToMessages()
        self._on_progress = on_progress
        self._config = RolloutConfig(max_attempts=3, retry_condition=["unresponsive"])
        self._done: dict[str, dict[Place, Outcome]] = {}
        self._recalled: dict[Key, Outcome] = {}
        """Paid before this process began, and not asked for yet: it counts when it is, as if it were run then."""
        self._cut: dict[Key, list[Outcome]] = {}
        """Under way when a process was killed: what they took counts when they are asked for, and they run again."""
        self._looked = False
        """Whether it was seen that agents do something."""
        self._checked = False
        """Whether it was seen that the agents' LLM calls are on record."""
        self._served: dict[str, str] = {}
        """Candidate key -> id of its resources."""

    def size(self, split: Split) -> int:
        """Tasks of a split."""
        return len(self._tasks.get(split, []))

    def room(self) -> int:
        """How many rollouts the budget still allows."""
        return self._ledger.room()

    def new(self, wanted: Sequence[tuple[Candidate, Place]]) -> int:
        """How many of them the budget would be charged for."""
        return len(self._missing(wanted))

    def outcomes(self, candidate: Candidate, split: Split) -> list[Outcome]:
        """What is known of a candidate, in order of task and repeat."""
        known = self._done.get(candidate.key, {})
        return [known[place] for place in sorted(known) if place.split == split]

    def scores(self, candidate: Candidate, split: Split) -> dict[int, float]:
        """Task index -> mean reward over its rollouts, of the tasks that the candidate was tried on."""
        rewards: dict[int, list[float]] = {}
        for outcome in self.outcomes(candidate, split):
            rewards.setdefault(outcome.place.task, []).append(outcome.reward)
        return {task: sum(values) / len(values) for task, values in rewards.items()}

    async def run(self, wanted: Sequence[tuple[Candidate, Place]]) -> list[Outcome]:
        """Run what is not known yet, all at once, and wait for it.

        Returns:
            The outcomes, in the order of `wanted`.

        Raises:
            BudgetSpent: the budget does not allow all that is new; nothing was run.
        """
        todo = self._missing(wanted)
        if todo and not self._ledger.knows_a_rollout:  # how much one takes is to be seen before many are under way
            first = next(iter(todo))
            await self._pay({first: todo.pop(first)})
        await self._pay(todo)
        return [self._done[candidate.key][place] for candidate, place in wanted]

    async def load(self) -> int:
        """Find the rollouts of an interrupted run in the store; how many there are."""
        found = [
            rollout
            for rollout in await self._store.query_rollouts(status_in=["succeeded", "failed", "cancelled"])
            if self._key_of(rollout) is not None
        ]
        cut = {each.rollout_id for each in found if each.status == "cancelled" and not _is_late(each)}
        for key, outcome in await self._outcomes(found):
            if outcome.rollout_id in cut:
                self._cut.setdefault(key, []).append(outcome)
            else:
                self._recalled.setdefault(key, outcome)
        return len(self._recalled)

    # -- one batch --------------------------------------------------------------------------------------------------

    def _missing(self, wanted: Sequence[tuple[Candidate, Place]]) -> dict[Key, Candidate]:
        return {
            (candidate.key, place): candidate
            for candidate, place in wanted
            if place not in self._done.get(candidate.key, {})
        }

    async def _pay(self, todo: Mapping[Key, Candidate]) -> None:
        """Have all of `todo` done: what an interrupted run paid for is taken from there."""
        for key in todo:
            for outcome in self._cut.pop(key, ()):
                self._ledger.rollout_cut(outcome)
        self._ledger.rollouts(len(todo))  # also for those that are known: room is as it was before the interruption
        missing = [key for key in todo if key not in self._recalled]
        self._settle([(key, self._recalled.pop(key)) for key in todo if key in self._recalled])
        if not missing:
            return
        for key in missing:
            if key[0] not in self._served:
                self._served[key[0]] = await self._serve(todo[key])
        try:
            queued = await self._store.enqueue_many_rollouts([self._request(*key) for key in missing])
        except TypeError as error:
            raise DatasetError(f"a task can't be stored: {error}; tasks are JSON values") from error
        self._settle(await self._outcomes(await self._wait(list(queued))))
        self._check_agents()
        self._check_recorded()

    def _settle(self, ended: Sequence[tuple[Key, Outcome]]) -> None:
        for (prompts, place), outcome in ended:
            self._ledger.rollout_done(outcome)
            self._done.setdefault(prompts, {})[place] = outcome

    def _check_agents(self) -> None:
        """Say once if all first rollouts failed or had no reward: no prompt mends a mistake in the agent."""
        ended = [outcome for known in self._done.values() for outcome in known.values()]
        if self._looked or len(ended) < _FIRST:
            return
        self._looked = True
        if all(outcome.failed for outcome in ended):
            logger.warning("all %d rollouts so far failed; the first: %s", len(ended), ended[0].error)
        elif not any(outcome.rewarded for outcome in ended):
            logger.warning(
                "none of the %d rollouts so far has a reward, which counts as 0: return a number from the agent, or "
                "call `emit_reward`",
                len(ended),
            )

    def _check_recorded(self) -> None:
        """Say once, after the first rollouts that succeeded, if there is no LLM call of theirs on record."""
        ended = [outcome for known in self._done.values() for outcome in known.values() if not outcome.failed]
        if self._checked or not ended:
            return
        self._checked = True
        if any(outcome.calls for outcome in ended):
            return
        mend = "run them through the gateway (`Trainer(llm_proxy=...)`) or `tracer=OtelTracer(instrument=['openai'])`"
        if self._ledger.counts_calls_of_agents:
            raise ConfigError(
                "the budget limits `llm_calls`, `tokens` or `cost`, and none of the agents' LLM calls are on record; "
                f"{mend}, or say what one rollout takes (`rollout_calls`, `rollout_tokens`, `rollout_cost`)"
            )
        logger.warning(
            "the critic sees only rewards and feedback, for no LLM call of the agents is on record: %s", mend
        )

    async def _wait(self, queued: Sequence[Rollout]) -> list[Rollout]:
        ids = [rollout.rollout_id for rollout in queued]
        done: dict[str, Rollout] = {}
        deadline = math.inf if self._batch_timeout is None else time.monotonic() + self._batch_timeout
        while pending := [rollout_id for rollout_id in ids if rollout_id not in done]:
            if (left := deadline - time.monotonic()) <= 0:
                await self._cancel([rollout for rollout in queued if rollout.rollout_id in pending])
                left = 0.0
            ended = await self._store.wait_for_rollouts(rollout_ids=pending, timeout=min(_LOOK_SECONDS, left))
            done.update({rollout.rollout_id: rollout for rollout in ended})
            if self._on_progress is not None:
                self._on_progress(len(done), len(ids))
        return [done[rollout_id] for rollout_id in ids]

    async def _cancel(self, late: Sequence[Rollout]) -> None:
        logger.warning(
            "%d rollouts took longer than %g s and count as failed (`rollout_batch_timeout`)",
            len(late),
            self._batch_timeout,
        )
        for rollout in late:
            await self._store.update_rollout(
                rollout.rollout_id, status="cancelled", metadata={**(rollout.metadata or {}), _LATE: True}
            )

    async def _outcomes(self, rollouts: Sequence[Rollout]) -> list[tuple[Key, Outcome]]:
        attempts = [(r.rollout_id, r.attempt.attempt_id) for r in rollouts if isinstance(r, AttemptedRollout)]
        spans: dict[str, list[Span]] = {}
        for start in range(0, len(attempts), _AT_ONCE):
            spans |= await self._store.query_many_spans(attempts[start : start + _AT_ONCE])
        keyed = [(key, rollout) for rollout in rollouts if (key := self._key_of(rollout)) is not None]
        return [
            (
                key,
                outcome_of(
                    rollout,
                    key[1],
                    spans.get(rollout.rollout_id, []),
                    self._adapter,
                    given_up=await self._given_up(rollout),
                ),
            )
            for key, rollout in keyed
        ]

    async def _given_up(self, rollout: Rollout) -> list[Span]:
        """Spans of the attempts before the latest."""
        if not isinstance(rollout, AttemptedRollout) or rollout.attempt.sequence_id == 1:
            return []
        return [
            span
            for span in await self._store.query_spans(rollout.rollout_id)
            if span.attempt_id != rollout.attempt.attempt_id
        ]

    def _key_of(self, rollout: Rollout) -> Key | None:
        """Which trial of ours it was; `None` where it is none."""
        what: Mapping[str, Any] = (rollout.metadata or {}).get(METADATA) or {}
        if "task" not in what or what.get("scope") != self._scope:
            return None
        task = self._places.get((what["split"], what["task"]))
        return None if task is None else (what["prompts"], Place(what["split"], task, what["repeat"]))

    async def _serve(self, candidate: Candidate) -> str:
        resources: NamedResources = {
            name: each.model_copy(update={"template": candidate.texts[name]})
            if name in candidate.texts and isinstance(each, PromptTemplate)
            else each
            for name, each in self._resources.items()
        }
        resources_id = "-".join(part for part in ("apo", self._scope, candidate.key) if part)
        await self._store.update_resources(resources_id, resources)
        return resources_id

    def _request(self, prompts: str, place: Place) -> EnqueueRolloutRequest:
        task_key = self._task_keys[place.split][place.task]
        what = {"prompts": prompts, "split": place.split, "task": task_key, "repeat": place.repeat}
        seed = stable_seed(self._seed, *map(str, what.values()))
        return EnqueueRolloutRequest(
            input=self._tasks[place.split][place.task],
            mode=place.split,
            resources_id=self._served[prompts],
            config=self._config,
            metadata={METADATA: {**what, "scope": self._scope}, "seed": seed},
        )


def _keys(tasks: Sequence[Any]) -> list[str]:
    """Content of each task, and which of several equal ones it is."""
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for key in map(content_key, tasks):
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return keys


def _is_late(rollout: Rollout) -> bool:
    return bool((rollout.metadata or {}).get(_LATE))
