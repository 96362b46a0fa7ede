"""`Best`: hill climbing, children of who ranks first only; `EpsilonGreedy`: now and then of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...candidate import Candidate
from ..base import Rank

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class Best:
    """All children of a round are children of the first in the ranking."""

    rank: Rank
    children: int = 4

    def parents(self, state: State) -> list[Candidate]:
        return self.rank(state, state.archive)[:1] * self.children

    def keep(self, state: State, children: Sequence[Candidate]) -> list[Candidate]:
        return self.rank(state, [*state.archive, *children])


@dataclass(frozen=True, slots=True)
class EpsilonGreedy:
    """The first in the ranking, or with probability `epsilon` any candidate of the archive. `keep`: the `size` best."""

    rank: Rank
    children: int = 1
    epsilon: float = 0.1
    size: int = 16

    def parents(self, state: State) -> list[Candidate]:
        rng = state.rng("parents", state.round)
        best = self.rank(state, state.archive)[0]
        return [rng.choice(state.archive) if rng.random() < self.epsilon else best for _ in range(self.children)]

    def keep(self, state: State, children: Sequence[Candidate]) -> list[Candidate]:
        return self.rank(state, [*state.archive, *children])[: self.size]
