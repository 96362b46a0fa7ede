"""Which tasks a step runs, and the seed of each rollout: functions of (run seed, step), so resume needs no cursor."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np

from agentlightning.types import Dataset

T = TypeVar("T")


def stable_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on `parts` alone, on any machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


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


def subset(dataset: Dataset[T], limit: int, *, seed: int, shuffle: bool) -> Dataset[T]:
    """At most `limit` tasks (-1: all): the first ones, or with `shuffle` a random choice, as verl does."""
    if limit < 0 or limit >= len(dataset):
        return dataset
    chosen = range(limit)
    if shuffle:
        chosen = np.random.default_rng(stable_seed(seed, "subset")).choice(len(dataset), limit, replace=False)
    return [dataset[int(i)] for i in chosen]
