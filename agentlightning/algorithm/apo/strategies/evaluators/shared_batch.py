"""`SharedBatch`: one validation batch a round for beam and children, all tasks for the leader. The documented APO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...batches import Batches
from ...candidate import Candidate
from ..choice import best_of, common, measure, order, pairs

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """Ranks archive and children on the round's batch; only who leads there is tried on all validation tasks.

    The leader becomes the best if its mean over all tasks is strictly higher (spec/prompt_optimisation.md, 1.2).
    Where the budget is too small for batch and leader, the batch is cut so that the leader can still be validated,
    though not to less than half of what is left.
    """

    val_batch_size: int = 16

    async def evaluate(self, state: State, children: Sequence[Candidate]) -> Candidate:
        contenders = [*state.archive, *children]
        everything = order(state, state.round)
        await measure(state, contenders, self._payable(state, contenders))
        leader = self.rank(state, contenders)[0]
        await measure(state, [leader], everything)
        return best_of(state, [leader], state.best or state.candidates[0])

    def rank(self, state: State, candidates: Sequence[Candidate]) -> list[Candidate]:
        batch = set(self._batch(state)).intersection(common(state, candidates))
        return sorted(candidates, key=lambda c: -round(state.mean(c, "val", sorted(batch)) or 0.0, 9))

    async def finish(self, state: State) -> Candidate:
        return state.best or state.candidates[0]

    def _payable(self, state: State, contenders: Sequence[Candidate]) -> list[int]:
        """As much of the batch as leaves enough for the leader, whoever it is; or as half of the room pays for."""
        batch, room = self._batch(state), state.trials.room()
        for upto in range(len(batch), 0, -1):
            cost = state.trials.new(pairs(contenders, batch[:upto]))
            rest = [task for task in range(state.trials.size("val")) if task not in batch[:upto]]
            leader = max(state.trials.new(pairs([each], rest)) for each in contenders)
            if cost + leader <= room or cost <= room // 2:
                return batch[:upto]
        return []

    def _batch(self, state: State) -> list[int]:
        size = state.trials.size("val")
        return Batches(size, self.val_batch_size, lambda epoch: state.rng("val", epoch)).at(state.round - 1)
