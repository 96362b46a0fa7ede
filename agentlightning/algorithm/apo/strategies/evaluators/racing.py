"""`Racing`: step by step on further validation tasks, without those that can't be the best any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...candidate import Candidate
from ...stats import bernstein_radius, paired_p
from ..choice import best_of, differences, measure, order, rank, total

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class Racing:
    """Races the children and the best so far (Maron and Moore 1994; Mnih et al. 2008).

    After every `step` tasks a candidate is out if its paired differences to the leader speak against it at `level`,
    shared out among the candidates (Bonferroni). The race ends with one candidate, or with the tasks.

    Args:
        test: `bernstein`: the empirical Bernstein bound of the mean difference lies below 0. It makes no assumption
            but the span of rewards, and takes about 100 tasks to tell 0.5 from 0.8. `permutation`: an exact test.
        span: Greatest reward minus smallest, for `bernstein`.
    """

    first: int = 8
    step: int = 8
    level: float = 0.1
    test: Literal["bernstein", "permutation"] = "bernstein"
    span: float = 1.0

    async def evaluate(self, state: State, children: Sequence[Candidate]) -> Candidate:
        best = state.best or state.candidates[0]
        tasks = order(state, state.round)
        alive, upto = [best, *children], 0
        while len(alive) > 1 and upto < len(tasks):
            asked = min(len(tasks), upto + (self.step if upto else self.first))
            tried = await measure(state, alive, tasks[:asked])
            leader = max(alive, key=lambda c: state.mean(c, "val", tried) or 0.0)
            level = self.level / len(children)
            alive = [c for c in alive if not self._out(differences(state, c, leader, tried), level)]
            if len(tried) < asked:
                break
            upto = asked
        return best_of(state, self.rank(state, alive), best, self.level / max(1, len(children)))

    def rank(self, state: State, candidates: Sequence[Candidate]) -> list[Candidate]:
        return rank(state, candidates)

    async def finish(self, state: State) -> Candidate:
        return state.best or state.candidates[0]

    def _out(self, behind: Sequence[float], level: float) -> bool:
        if not behind or total(behind) <= 0:
            return False
        if self.test == "permutation":
            return paired_p(behind, greater=True)[0] <= level
        return total(behind) / len(behind) > bernstein_radius(behind, level, 2 * self.span)
