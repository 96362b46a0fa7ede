"""`Full`: every child on every validation task. GEPA (arXiv 2507.19457)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...candidate import Candidate
from ..choice import best_of, measure, order, rank

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class Full:
    """Tries all children on all validation tasks; the highest mean wins, of equals the oldest."""

    async def evaluate(self, state: State, children: Sequence[Candidate]) -> Candidate:
        best = state.best or state.candidates[0]
        if not children:
            return best
        await measure(state, [best, *children], order(state, state.round))
        return best_of(state, self.rank(state, children), best)

    def rank(self, state: State, candidates: Sequence[Candidate]) -> list[Candidate]:
        return rank(state, candidates)

    async def finish(self, state: State) -> Candidate:
        return state.best or state.candidates[0]
