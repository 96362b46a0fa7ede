"""The rollouts of one training step: run, grouped, and where the configuration says so filtered and refilled.

`Collector` is called by the loop in `trainer` and calls the daemon. Dynamic sampling (DAPO, arXiv 2503.14476) draws
further tasks until the batch is full of groups whose rollouts differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentlightning.types import Dataset, Episode, TrainingError

from .config import VerlConfig
from .daemon import AgentModeDaemon
from .reward import overlong_penalty
from .rows import whole_groups
from .sample import Sample
from .tasks import TaskOrder

logger = logging.getLogger(__name__)

_BEFORE_SHAPING = ("acc", "score")
_AFTER_SHAPING = ("reward", "seq_reward", "seq_final_reward")
"""Values of `algorithm.filter_groups.metric` that are no reward dimensions. `seq_final_reward` is after the KL penalty,
too; `config.checks` refuses it where there is one, which nobody knows before the step learns."""


@dataclass(slots=True)
class Collected:
    """What a step has to learn from."""

    samples: list[Sample] = field(default_factory=list[Sample])
    """All rollouts that were run, greedy ones aside."""
    groups: list[list[Sample]] = field(default_factory=list[list[Sample]])
    """Those to train on."""
    baselines: dict[tuple[int, int], Sample] = field(default_factory=dict[tuple[int, int], Sample])
    """The greedy rollout of each whole group, where one was asked for."""
    earlier: list[list[Sample]] = field(default_factory=list[list[Sample]])
    """What the policy answered to the same tasks when they were run the last time, where it was asked for."""
    torn: int = 0
    """Groups that failures tore."""
    first_torn: Sample | None = None
    """The first rollout that tore one."""
    silent: int = 0
    """Groups left out because their rollouts did not differ."""
    batches: int = 0
    """Generation batches."""


class Collector:
    """Draws tasks, runs them, and tells the order (a curriculum may want to know) what they earned.

    Args:
        config: The run's settings.
        daemon: Runs the rollouts.
        order: Which tasks are drawn; one batch of it is a generation batch.
        tasks: The training tasks.
        greedy: Whether each group needs a greedy rollout as its baseline (`remax`).
        earlier: Whether each group is compared with the answers of an earlier step (SPIN).
    """

    def __init__(
        self,
        config: VerlConfig,
        daemon: AgentModeDaemon,
        order: TaskOrder,
        tasks: Dataset[Any],
        *,
        greedy: bool = False,
        earlier: bool = False,
    ) -> None:
        self._config = config
        self._daemon = daemon
        self._order = order
        self._tasks = tasks
        self._shape = shaping(config)
        self._greedy = greedy
        self._earlier = earlier
        self._answers: dict[int, list[str]] = {}
        """By task: ids of the rollouts of the last step that ran it."""
        self.drawn = 0
        """Generation batches drawn so far in the run."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"drawn": self.drawn, "answers": [[task, ids] for task, ids in self._answers.items()]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.drawn = int(state["drawn"])
        self._answers = {int(task): list(ids) for task, ids in state["answers"]}

    async def collect(
        self, step: int, resources_id: str, on_progress: Callable[[int, int], None] | None = None
    ) -> Collected:
        """The rollouts of step `step`.

        Raises:
            TrainingError: dynamic sampling found no group whose rollouts differ.
        """
        filters, wanted = self._config.algorithm.filter_groups, self._config.data.train_batch_size
        result = Collected()
        seen: dict[int, int] = {}
        idle = 0
        while True:
            groups = len(result.groups)
            result.batches += 1
            await self._run(step, self._draw(seen), resources_id, result, on_progress)
            idle = 0 if len(result.groups) > groups else idle + 1
            if not filters.enable or len(result.groups) >= wanted or self._exhausted(result, idle):
                break
        _tell_torn(result)
        if filters.enable:
            del result.groups[wanted:]
        if self._earlier:
            await self._look_back(result)
        for sample in result.samples:
            if not sample.torn:
                self._order.record(sample.task, self._reward(sample))
        return result

    def _draw(self, seen: dict[int, int]) -> list[tuple[int, int]]:
        """(task, how often the step had drawn it before) of the next generation batch."""
        self.drawn += 1
        batch: list[tuple[int, int]] = []
        for task in self._order.batch(self.drawn):
            batch.append((task, seen.get(task, 0)))
            seen[task] = seen.get(task, 0) + 1
        return batch

    async def _run(
        self,
        step: int,
        batch: list[tuple[int, int]],
        resources_id: str,
        result: Collected,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        """Run a generation batch, `data.gen_batch_size` tasks at a time, and sort what came of it into `result`."""
        size = self._config.data.gen_batch_size or len(batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            samples = await self._daemon.run_batch(
                [(task, self._tasks[task]) for task, _ in part],
                n=self._config.actor_rollout_ref.rollout.n,
                mode="train",
                step=step,
                resources_id=resources_id,
                draws=[draw for _, draw in part],
                greedy=self._greedy,
                on_progress=on_progress,
            )
            whole, torn = whole_groups(samples)
            result.first_torn = result.first_torn or next((sample for sample in samples if sample.torn), None)
            groups = [[sample for sample in group if not sample.greedy] for group in whole]
            kept = [group for group in groups if self._speaks(group)]
            result.samples += [sample for sample in samples if not sample.greedy]
            result.baselines |= {sample.group: sample for group in whole for sample in group if sample.greedy}
            result.torn += torn
            result.silent += len(groups) - len(kept)
            result.groups += kept

    async def _look_back(self, result: Collected) -> None:
        """Fetch what was answered the last time, and remember what was answered now."""
        tasks = dict.fromkeys(group[0].task for group in result.groups)
        ids = [rollout_id for task in tasks for rollout_id in self._answers.get(task, [])]
        result.earlier, _ = whole_groups(await self._daemon.recall(ids))
        for group in result.groups:
            self._answers[group[0].task] = [sample.rollout.rollout_id for sample in group]

    def _speaks(self, group: Sequence[Sample]) -> bool:
        """Whether the rollouts of a group differ, or nothing asks for that."""
        filters = self._config.algorithm.filter_groups
        if len(group) == 1 or not (filters.enable or self._config.agentlightning.filter_zero_variance):
            return True
        metric = filters.metric if filters.enable else "reward"
        return len({self._measure(sample, metric) for sample in group}) > 1

    def _reward(self, sample: Sample) -> float:
        """The agent's, or what stands for a missing one."""
        return self._config.agentlightning.reward_fillna_value if sample.reward is None else sample.reward

    def _measure(self, sample: Sample, metric: str) -> float:
        """What `algorithm.filter_groups.metric` says of a rollout: a reward dimension, or its reward."""
        reward, rewards = self._reward(sample), sample.episode.rewards
        if metric in rewards:
            return rewards[metric]
        if metric in _AFTER_SHAPING:
            return reward + (0.0 if self._shape is None else self._shape(sample.episode))
        if metric in _BEFORE_SHAPING or sample.error is not None:
            return reward
        raise TrainingError(
            f"`algorithm.filter_groups.metric` is {metric!r}, and the reward of rollout {sample.rollout.rollout_id} "
            f"has only {sorted(rewards)}; name one of these, or `reward`"
        )

    def _exhausted(self, result: Collected, idle: int) -> bool:
        """Whether to go on with the groups there are.

        At `max_num_gen_batches`; without such a limit after a whole pass over the tasks, `idle` batches in a row, in
        which no group had anything to say.

        Raises:
            TrainingError: there are none.
        """
        limit = self._config.algorithm.filter_groups.max_num_gen_batches
        if result.batches < limit or (not limit and idle < self._order.steps_per_epoch):
            return False
        if not result.groups and result.silent:
            raise TrainingError(
                f"dynamic sampling drew {result.batches} generation batches and in no group did the rewards differ "
                f"({result.torn} groups failed); choose tasks that are neither too easy nor too hard, raise "
                "`actor_rollout_ref.rollout.n`, or set `algorithm.filter_groups.enable` to False"
            )
        logger.warning(
            "dynamic sampling found %d of %d groups in %d generation batches; the step takes them (see "
            "`algorithm.filter_groups.max_num_gen_batches`)",
            len(result.groups),
            self._config.data.train_batch_size,
            result.batches,
        )
        return True


def shaping(config: VerlConfig) -> Callable[[Episode], float] | None:
    """What `reward.reward_kwargs.overlong_buffer_cfg` adds to the reward of an episode (DAPO's overlong shaping).

    `None` where it is not enabled.

    The length that counts is that of the longest answer: `data.max_response_length` cuts off answers, not rollouts, and
    a rollout of ten short turns is not overlong. With one turn this is verl's.
    """
    kwargs = config.reward.reward_kwargs
    buffer = kwargs.overlong_buffer_cfg
    if not buffer.enable:
        return None
    longest = kwargs.max_resp_len or config.data.max_response_length

    def penalty(episode: Episode) -> float:
        length = max((len(turn.call.response_ids) for turn in episode.turns), default=0)
        return overlong_penalty(length, longest, buffer.len, buffer.penalty_factor)

    return penalty


def _tell_torn(result: Collected) -> None:
    """Say that groups are left out. Where none is left the step says why itself (`failures`)."""
    first, others = result.first_torn, len(result.groups) + result.silent
    if first is None or not others:
        return
    logger.warning(
        "%d of %d groups %s left out; rollout %s %s",
        result.torn,
        result.torn + others,
        "is" if result.torn == 1 else "are",
        first.rollout.rollout_id,
        first.flaw,
    )
