"""`Posterior`: few tasks for each child, and one model of all rewards so far that says who is best. Used by `auto`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...candidate import Candidate
from ..choice import measure, order

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class Posterior:
    """Tries the children of a round and the leader on the same `first` tasks, the `top` best of them on `more` others.

    Who leads is who has the greatest posterior mean (`effects`): rewards on different tasks are made comparable by the
    tasks' own difficulty, and who was tried on few tasks is taken to be about as good as its parent. So no candidate
    leads because it was lucky on few tasks, and none has to be tried on all tasks before it may have children.

    Args:
        first: Tasks of each child.
        top: How many go on after that; 0: none. The leader is one of the contenders.
        more: Tasks that they are tried on beside.
        prior: Variance of rewards on a task, divided by the variance of the step from parent to child: as many tasks
            as it takes to move the estimate half way.
        finalists: How many are tried on all tasks at the end.
        reserve: Share of the budget that is left for that.
    """

    first: int = 4
    top: int = 0
    more: int = 8
    prior: float = 80.0
    finalists: int = 3
    reserve: float = 0.0

    async def evaluate(self, state: State, children: Sequence[Candidate]) -> Candidate:
        known = _unique([state.best or state.candidates[0], *state.archive])
        leader = self.rank(state, known)[0]
        tasks = order(state, state.round)
        await measure(state, [leader, *children], tasks[: self.first], self._room(state))
        if self.top and children:
            best = self.rank(state, [leader, *children])[: self.top]
            await measure(state, best, tasks[: self.first + self.more], self._room(state))
        return self.rank(state, _unique([*known, *children]))[0]

    def rank(self, state: State, candidates: Sequence[Candidate]) -> list[Candidate]:
        worth = effects(state, self.prior)
        return sorted(candidates, key=lambda c: -worth[c.id])

    async def finish(self, state: State) -> Candidate:
        """The finalists on all tasks: the best of many, each measured on few, is less good than it looks. Of those that
        did exactly as well on the same tasks the earliest: what was added since did nothing."""
        known = _unique([state.best or state.candidates[0], *state.archive])
        await measure(state, self.rank(state, known)[: self.finalists], order(state, "finish"))
        scores = state.scores(self.rank(state, known)[0])
        return next(candidate for candidate in state.candidates if state.scores(candidate) == scores)

    def _room(self, state: State) -> int:
        room = state.trials.room()
        return max(0, room - round(self.reserve * (room + state.ledger.spent.rollouts)))


def effects(state: State, prior: float) -> dict[str, float]:
    """Candidate id -> posterior mean of its validation reward, up to a constant that is the same for all.

    The model: reward = task + candidate + noise, where a candidate differs from the mean of its parents by a normal
    step, and nothing is known beforehand of tasks and of the start. The estimate minimises

        sum (reward - task - candidate)^2 + prior * sum (candidate - mean of its parents)^2

    Tasks are eliminated, which leaves one linear system of as many unknowns as there are candidates.
    """
    index = {candidate.id: row for row, candidate in enumerate(state.candidates)}
    rewards, tried = np.zeros((2, len(index), state.trials.size("val")))
    for candidate in state.candidates:
        for task, reward in state.scores(candidate).items():
            rewards[index[candidate.id], task], tried[index[candidate.id], task] = reward, 1.0
    share = tried / np.maximum(1.0, tried.sum(axis=0))
    system = np.diag(tried.sum(axis=1)) - share @ tried.T
    right = rewards.sum(axis=1) - share @ rewards.sum(axis=0)
    for candidate in state.candidates:
        step = np.zeros(len(index))
        step[index[candidate.id]] = 1.0
        for parent in candidate.parents:
            step[index[parent]] -= 1.0 / len(candidate.parents)
        # A hair of weight keeps the start at 0: only differences matter.
        system += np.outer(step, step) * (prior if candidate.parents else 1e-6)
    solved = np.linalg.solve(system, right)
    return {each: round(float(solved[row]), 9) for each, row in index.items()}


def _unique(candidates: Sequence[Candidate]) -> list[Candidate]:
    return list({candidate.id: candidate for candidate in candidates}.values())
