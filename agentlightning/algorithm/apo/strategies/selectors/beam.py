"""`Beam`: the best few, each with as many children. ProTeGi (arXiv 2305.03495) and the documented APO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...candidate import Candidate
from ..base import Rank

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class Beam:
    """Parents are the beam in random order, each `branch_factor` times (spec/prompt_optimisation.md, 1.2).

    A beam that is not full yet is gone through again until there are `width` parents: in the first round they are
    `width` copies of the start. After a round the `width` best of beam and children are the beam; of equals the older.
    """

    rank: Rank
    width: int = 4
    branch_factor: int = 4

    def parents(self, state: State) -> list[Candidate]:
        beam = list(state.archive)
        if len(beam) < self.width:
            chosen = [beam[index % len(beam)] for index in range(self.width)]
        else:
            chosen = state.rng("parents", state.round).sample(beam, self.width)
        return [parent for parent in chosen for _ in range(self.branch_factor)]

    def keep(self, state: State, children: Sequence[Candidate]) -> list[Candidate]:
        return self.rank(state, [*state.archive, *children])[: self.width]
