"""`UCB`: validation rollouts go to those that may be the best. ProTeGi's bandit (arXiv 2305.03495, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...candidate import Candidate
from ..choice import best_of, fitting, measure, order, pairs, rank

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class UCB:
    """Upper confidence bounds over archive and children.

    In each of `pulls` steps the `arms` candidates with the highest mean + c * sqrt(ln(step + 1) / tasks) are tried on
    `sample` further tasks, all in the same order, so that those with as many tasks were tried on the same ones. Nobody
    is tried on a task twice; who was tried on all has no bonus. Then the leader is tried on all tasks.
    """

    c: float = 1.0
    pulls: int = 8
    arms: int = 8
    sample: int = 8

    async def evaluate(self, state: State, children: Sequence[Candidate]) -> Candidate:
        contenders = list({c.id: c for c in (*state.archive, *children)}.values())
        tasks = order(state, state.round)
        for pull in range(1, self.pulls + 1):
            chosen = self._chosen(state, contenders, pull)
            wanted = [pair for c in chosen for pair in pairs([c], self._next(state, c, tasks))]
            if not wanted or state.trials.new(wanted) > state.trials.room():
                break
            await state.trials.run(wanted)
        leader = self.rank(state, contenders)[0]
        if len(fitting(state, [leader], tasks)) == len(tasks):
            await measure(state, [leader], tasks)
        return best_of(state, [leader], state.best or state.candidates[0])

    def rank(self, state: State, candidates: Sequence[Candidate]) -> list[Candidate]:
        return rank(state, candidates)

    async def finish(self, state: State) -> Candidate:
        return state.best or state.candidates[0]

    def _chosen(self, state: State, contenders: Sequence[Candidate], pull: int) -> list[Candidate]:
        def bound(candidate: Candidate) -> float:
            tried = len(state.scores(candidate))
            if not tried:
                return math.inf
            bonus = self.c * math.sqrt(math.log(pull + 1) / tried)
            return (state.mean(candidate) or 0.0) + (bonus if tried < state.trials.size("val") else 0.0)

        return sorted(contenders, key=lambda c: -bound(c))[: self.arms]

    def _next(self, state: State, candidate: Candidate, tasks: Sequence[int]) -> list[int]:
        tried = state.scores(candidate)
        return [task for task in tasks if task not in tried][: self.sample]
