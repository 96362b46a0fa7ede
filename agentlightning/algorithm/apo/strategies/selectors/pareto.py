"""`Pareto`: parents are drawn from those that are best on some validation task. GEPA (arXiv 2507.19457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...candidate import Candidate
from ..base import Rank

if TYPE_CHECKING:
    from ...state import State

Scores = Mapping[str, Mapping[int, float]]
"""Candidate id -> task -> mean reward."""


@dataclass(frozen=True, slots=True)
class Pareto:
    """Draws a parent with a chance proportional to the number of validation tasks on which nobody beats it.

    A candidate is not drawn if others of the front cover all its tasks; the weakest are left out first. Only tasks that
    two or more were tried on count.

    Args:
        children: Parents drawn each round.
        top: Only the so many best in the mean take part; `None`: all.
        skip_zero: Leave out tasks that nobody has solved (best reward 0), on which all are equals. GEPA counts them.
    """

    rank: Rank
    children: int = 1
    top: int | None = None
    skip_zero: bool = False

    def parents(self, state: State) -> list[Candidate]:
        pool = self.rank(state, state.archive)[: self.top]
        weights = front({c.id: state.scores(c) for c in reversed(pool)}, skip_zero=self.skip_zero)
        drawn = [c for c in state.archive if c.id in weights] or [pool[0]]
        rng = state.rng("parents", state.round)
        return rng.choices(drawn, [weights.get(c.id, 1) for c in drawn], k=self.children)

    def keep(self, state: State, children: Sequence[Candidate]) -> list[Candidate]:
        return [*state.archive, *children]


def front(scores: Scores, *, skip_zero: bool = False) -> dict[str, int]:
    """Ids of the front and on how many tasks each is among the best. `scores`: the weakest candidate first."""
    holders = _holders(scores, skip_zero)
    alive = [each for each in scores if any(each in held for held in holders)]
    # One pass is enough: who is needed beside many is needed beside fewer.
    for each in list(alive):
        if all(len(held.intersection(alive)) > 1 for held in holders if each in held):
            alive.remove(each)
    return {each: sum(each in held for held in holders) for each in alive}


def _holders(scores: Scores, skip_zero: bool) -> list[set[str]]:
    """For each task that can tell candidates apart: who is best on it."""
    holders: list[set[str]] = []
    for task in sorted({task for row in scores.values() for task in row}):
        column = {each: row[task] for each, row in scores.items() if task in row}
        top = max(column.values())
        if len(column) > 1 and not (skip_zero and top <= 0):
            holders.append({each for each, score in column.items() if score == top})
    return holders
