"""`Halving`: all on few validation tasks, the better half on twice as many, and so on. Successive halving
(Jamieson and Talwalkar, arXiv 1502.07943), on nested sets of tasks, against the leader."""

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
    """Tries children and the leader on `first` tasks, then on `growth` times as many, up to `most`.

    The leader is who ranks first in the archive. After each step `keep` of the children go on, the best ones on the
    tasks of the step; and of these only those that a paired one-sided test does not call worse than the leader, who
    costs nothing where it was tried already.

    Args:
        first: Tasks of the first step.
        growth: Each further step has so many times as many.
        most: Tasks of the last step; `None`: all. Who was tried on some alone is rarely sure enough to be the best
            (`choice.takes_over`), but can lead and be a finalist.
        keep: Share of the children that goes on, rounded up.
        drop_level: Dropped at a p of at most this: 0.5 for everyone who is behind, 0 for nobody.
        same_order: Whether steps have the same tasks in each round. Then a best that was not tried on all tasks costs
            less; but every child passes the same first tasks.
        finalists: How many are tried on all tasks at the end, and so many more times.
        repeats: Further rollouts of each finalist on each task, as far as the budget goes.
        reserve: Share of the budget that is left for the end.
    """

    first: int = 4
    growth: float = 2.0
    most: int | None = None
    keep: float = 0.5
    drop_level: float = 0.5
    same_order: bool = False
    finalists: int = 0
    repeats: int = 0
    reserve: float = 0.0

    async def evaluate(self, state: State, children: Sequence[Candidate]) -> Candidate:
        best = state.best or state.candidates[0]
        leader = self.rank(state, [best, *state.archive])[0]
        tasks = order(state, 0 if self.same_order else state.round)[: self.most]
        alive, upto = list(children), 0
        while alive and upto < len(tasks):
            asked = min(len(tasks), self.first if not upto else math.ceil(upto * self.growth))
            tried = await measure(state, [leader, *alive], tasks[:asked], self._room(state))
            alive = self._survivors(state, leader, alive, tried, last=asked == len(tasks))
            if len(tried) < asked:
                break
            upto = asked
        return best_of(state, self.rank(state, alive), best)

    def rank(self, state: State, candidates: Sequence[Candidate]) -> list[Candidate]:
        return rank(state, candidates)

    async def finish(self, state: State) -> Candidate:
        """The finalists on all tasks, and again: the best of many in one measurement is less good than it looks."""
        best = state.best or state.candidates[0]
        final = self.rank(state, [best, *(c for c in state.archive if c.id != best.id)])[: self.finalists]
        if len(final) < 2:
            return best
        if best.id not in {candidate.id for candidate in final}:
            final[-1] = best
        for repeat in range(self.repeats + 1):
            await measure(state, final, order(state, "finish", repeat), repeat=repeat)
        return best_of(state, self.rank(state, final), best)

    def _room(self, state: State) -> int:
        room = state.trials.room()
        return max(0, room - math.ceil(self.reserve * (room + state.ledger.spent.rollouts)))

    def _survivors(
        self, state: State, leader: Candidate, alive: Sequence[Candidate], tasks: Sequence[int], *, last: bool
    ) -> list[Candidate]:
        order_ = sorted(alive, key=lambda c: -(state.mean(c, "val", tasks) or 0.0))
        kept = order_ if last else order_[: math.ceil(self.keep * len(alive))]
        return [c for c in kept if not self._worse(differences(state, leader, c, tasks))]

    def _worse(self, ahead: Sequence[float]) -> bool:
        return sum(ahead) < 0 and paired_p([-each for each in ahead], greater=True)[0] <= self.drop_level
