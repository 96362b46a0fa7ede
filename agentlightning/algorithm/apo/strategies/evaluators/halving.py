"""`Halving`: all on few validation tasks, the better half on twice as many, and so on. Successive halving
(Jamieson and Talwalkar, arXiv 1502.07943), on nested sets of tasks, against the best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...candidate import Candidate
from ...stats import paired_p
from ..choice import best_of, differences, measure, order, rank

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class Halving:
    """Tries children and the best so far on `first` tasks, then on `growth` times as many, up to all.

    After each step `keep` of the children go on, the best ones on the tasks of the step; and of these only those that
    a paired one-sided test does not call worse than the best so far, who costs nothing where it was tried already.

    Args:
        first: Tasks of the first step.
        growth: Each further step has so many times as many.
        keep: Share of the children that goes on, rounded up.
        drop_level: Dropped at a p of at most this: 0.5 for everyone who is behind, 0 for nobody.
    """

    first: int = 4
    growth: float = 2.0
    keep: float = 0.5
    drop_level: float = 0.5

    async def evaluate(self, state: State, children: Sequence[Candidate]) -> Candidate:
        best = state.best or state.candidates[0]
        tasks = order(state, state.round)
        alive, upto = list(children), 0
        while alive and upto < len(tasks):
            asked = min(len(tasks), self.first if not upto else math.ceil(upto * self.growth))
            tried = await measure(state, [best, *alive], tasks[:asked])
            alive = self._survivors(state, best, alive, tried, last=asked == len(tasks))
            if len(tried) < asked:
                break
            upto = asked
        return best_of(state, self.rank(state, alive), best)

    def rank(self, state: State, candidates: Sequence[Candidate]) -> list[Candidate]:
        return rank(state, candidates)

    async def finish(self, state: State) -> Candidate:
        return state.best or state.candidates[0]

    def _survivors(
        self, state: State, best: Candidate, alive: Sequence[Candidate], tasks: Sequence[int], *, last: bool
    ) -> list[Candidate]:
        order_ = sorted(alive, key=lambda c: -(state.mean(c, "val", tasks) or 0.0))
        kept = order_ if last else order_[: math.ceil(self.keep * len(alive))]
        return [c for c in kept if not self._worse(differences(state, best, c, tasks))]

    def _worse(self, ahead: Sequence[float]) -> bool:
        return sum(ahead) < 0 and paired_p([-each for each in ahead], greater=True)[0] <= self.drop_level
