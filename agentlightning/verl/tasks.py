"""Which tasks a step runs, and the seed of each rollout: functions of (run seed, step), so resume needs no cursor.

With a curriculum the choice depends on the rewards so far as well; what it remembers goes into the checkpoint. Called
by the loop in `trainer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from agentlightning.types import ConfigError, Dataset, DatasetError
from agentlightning.utils.seeds import stable_seed

T = TypeVar("T")


class TaskOrder:
    """Batches of task indices: every epoch a new permutation, its incomplete last batch left out, as verl does.

    Args:
        size: Number of tasks.
        batch_size: Tasks a step; more than there are means all of them.
        seed: Seed of the permutations.
        shuffle: `False` keeps the dataset's order.
    """

    def __init__(self, size: int, batch_size: int, *, seed: int, shuffle: bool = True) -> None:
        self.size = size
        self.batch_size = min(batch_size, size)
        self.seed = seed
        self.shuffle = shuffle
        self.steps_per_epoch = size // self.batch_size

    def batch(self, step: int) -> list[int]:
        """Task indices of step `step`, counted from 1."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng(stable_seed(self.seed, "epoch", epoch)).permutation(self.size)
        start = position * self.batch_size
        return order[start : start + self.batch_size].tolist()

    def record(self, task: int, score: float) -> None:
        """Take note of the reward of one training rollout of a task; a fixed order has no use for it."""

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()` of an order over the same tasks."""


class SuccessRateOrder(TaskOrder):
    """A curriculum: tasks that sometimes succeed and sometimes fail come more often.

    A task of success rate p is drawn with weight p (1 - p) + `epsilon`: under a group-relative estimator a group of
    equal rewards teaches nothing, and for rewards of 0 and 1 p (1 - p) is the variance within a group. A task that has
    not been run yet counts as p = 1/2. A batch is drawn without repetition from (seed, step, what was recorded), by
    Efraimidis and Spirakis' method (Information Processing Letters 97, 2006).

    Args:
        size, batch_size, seed: As for `TaskOrder`; an epoch is `size // batch_size` steps here, too.
        epsilon: Weight that is left to tasks which always succeed or always fail; 1/4 is the most p (1 - p) can be.
        window: About how many of a task's last rollouts make its success rate: the weight of older ones falls by
            1 - 1 / `window` with each new one.
        lowest, highest: Rewards that count as failure and success; those between are partial success, those outside
            count as the nearer one.

    Raises:
        ConfigError: a parameter is out of range.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        epsilon: float = 0.02,
        window: float = 16,
        lowest: float = 0.0,
        highest: float = 1.0,
    ) -> None:
        super().__init__(size, batch_size, seed=seed)
        if not epsilon > 0:
            raise ConfigError(f"`agentlightning.curriculum.epsilon` is {epsilon}; it must be above 0")
        if not window >= 1:
            raise ConfigError(f"`agentlightning.curriculum.window` is {window}; it must be at least 1")
        if not lowest < highest:
            raise ConfigError(
                f"`agentlightning.curriculum.lowest` ({lowest}) must be below `agentlightning.curriculum.highest` "
                f"({highest})"
            )
        self.epsilon, self.keep, self.lowest, self.highest = epsilon, 1 - 1 / window, lowest, highest
        self._seen: dict[int, tuple[float, float]] = {}
        """By task: sum of its successes and their number, both with older ones discounted."""

    def batch(self, step: int) -> list[int]:
        """Task indices of step `step`; they depend on everything recorded so far."""
        drawn = 1 - np.random.default_rng(stable_seed(self.seed, "curriculum", step)).random(self.size)  # in (0, 1]
        keys = np.log(drawn) / self.weights()
        return np.argsort(-keys, kind="stable")[: self.batch_size].tolist()

    def weights(self) -> np.ndarray:
        """(size,) the weight of each task."""
        rates = np.full(self.size, 0.5)
        for task, (successes, number) in self._seen.items():
            rates[task] = successes / number
        return rates * (1 - rates) + self.epsilon

    def record(self, task: int, score: float) -> None:
        """Take note of the reward of one training rollout of a task."""
        if not np.isfinite(score):
            raise ValueError(f"the score of task {task} is {score}; a reward is a finite number")
        success = (min(max(score, self.lowest), self.highest) - self.lowest) / (self.highest - self.lowest)
        successes, number = self._seen.get(task, (0.0, 0.0))
        self._seen[task] = (self.keep * successes + success, self.keep * number + 1)

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON: [task, discounted successes, discounted number] of each task run so far."""
        return {"size": self.size, "tasks": [[task, *seen] for task, seen in sorted(self._seen.items())]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`.

        Raises:
            DatasetError: it is of another number of tasks.
        """
        if state["size"] != self.size:
            raise DatasetError(
                f"the checkpoint's curriculum is for {state['size']} training tasks and the dataset has {self.size}; "
                "resume with the dataset that the run was begun with"
            )
        self._seen = {int(task): (float(successes), float(number)) for task, successes, number in state["tasks"]}


CURRICULA = {"success_rate": SuccessRateOrder}
"""Curricula by the name in `agentlightning.curriculum`."""


def task_order(
    size: int, batch_size: int, *, seed: int, shuffle: bool = True, curriculum: Mapping[str, Any] | None = None
) -> TaskOrder:
    """The order that a configuration asks for.

    Args:
        size, batch_size, seed, shuffle: As for `TaskOrder`; a curriculum has no use for `shuffle`.
        curriculum: `agentlightning.curriculum`: a `name` of `CURRICULA` and the parameters of that class.

    Raises:
        ConfigError: there is no curriculum of that name, or it has no such parameter.
    """
    if curriculum is None:
        return TaskOrder(size, batch_size, seed=seed, shuffle=shuffle)
    parameters = dict(curriculum)
    name = parameters.pop("name", None)
    if name not in CURRICULA:
        raise ConfigError(f"`agentlightning.curriculum.name` is {name!r}; possible: {', '.join(map(repr, CURRICULA))}")
    try:
        return CURRICULA[name](size, batch_size, seed=seed, **parameters)
    except TypeError as error:
        raise ConfigError(f"`agentlightning.curriculum` {dict(curriculum)!r}: {error}") from error


def subset(dataset: Dataset[T], limit: int, *, seed: int, shuffle: bool) -> Dataset[T]:
    """At most `limit` tasks (-1: all): the first ones, or with `shuffle` a random choice, as verl does."""
    if limit < 0 or limit >= len(dataset):
        return dataset
    chosen = range(limit)
    if shuffle:
        chosen = np.random.default_rng(stable_seed(seed, "subset")).choice(len(dataset), limit, replace=False)
    return [dataset[int(i)] for i in chosen]
