"""`Batches`: which tasks come next. `loop` draws train batches from it, `SharedBatch` its validation batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

from agentlightning.types import ConfigError

Share = Literal["job", "parent", "round"]
"""Who is tried on one and the same train batch: nobody else, all children of a parent, all jobs of a round."""


class Batches:
    """Task indices in batches without end, shuffled anew for each epoch.

    A batch that an epoch leaves incomplete is filled up from the next one; what it holds already comes later in that
    epoch, so no task is twice in a batch and all are used equally often. Where a batch is as big as the dataset or
    bigger, each batch is the whole dataset in a new order (spec/prompt_optimisation.md, 1.2).

    Args:
        size: Tasks in the dataset.
        batch: Tasks in a batch.
        rng_of_epoch: Number of an epoch, from 0 -> the generator that shuffles it.
    """

    def __init__(self, size: int, batch: int, rng_of_epoch: Callable[[int], random.Random]):
        if size < 1 or batch < 1:
            raise ConfigError(f"`batch` {batch} of {size} tasks: both must be at least 1")
        self._size = size
        self._batch = min(batch, size)
        self._rng_of_epoch = rng_of_epoch
        self._epochs = 0
        self._pending: list[int] = []
        self._made: list[list[int]] = []
        self._given = 0

    def at(self, number: int) -> list[int]:
        """Batch `number`, from 0: always the same, in whatever order they are asked for."""
        while len(self._made) <= number:
            if len(self._pending) < self._batch:
                self._refill()
            self._made.append(self._pending[: self._batch])
            del self._pending[: self._batch]
        return list(self._made[number])

    def next(self) -> list[int]:
        """The batch after the one that was given last; never ends."""
        self._given += 1
        return self.at(self._given - 1)

    def _refill(self) -> None:
        order = list(range(self._size))
        self._rng_of_epoch(self._epochs).shuffle(order)
        self._epochs += 1
        begun = set(self._pending)
        fresh = [task for task in order if task not in begun]
        cut = self._batch - len(self._pending)
        rest = fresh[cut:] + [task for task in order if task in begun]
        # The later ones keep the order of their epoch.
        position = {task: index for index, task in enumerate(order)}
        self._pending += fresh[:cut] + sorted(rest, key=position.__getitem__)


def deal(batches: Batches, parents: Sequence[str], share: Share) -> list[list[int]]:
    """A batch for each job of a round, whose parents' ids are given in order."""
    if share == "job":
        return [batches.next() for _ in parents]
    dealt: dict[str, list[int]] = {}
    keys = parents if share == "parent" else [""] * len(parents)
    for key in keys:
        if key not in dealt:
            dealt[key] = batches.next()
    return [dealt[key] for key in keys]
