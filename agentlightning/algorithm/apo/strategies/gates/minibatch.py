"""Gates on the parent's train batch: the child is tried on the same tasks. `Minibatch` compares sums (GEPA,
arXiv 2507.19457), `PairedTest` asks how likely so great a gain is by chance.

Both let a child through whose parent was tried on nothing: there is nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...candidate import Candidate
from ...stats import paired_p
from ..base import Job
from ..choice import total

if TYPE_CHECKING:
    from ...state import State

Pair = tuple[Job, Candidate]


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Passes a child with a higher sum of rewards than its parent.

    Args:
        strict: Whether an equal sum is not enough.
        perfect: Children of a parent that got this reward on each task are not tried, and dropped; `None`: no such
            reward is known.
    """

    strict: bool = True
    perfect: float | None = None

    async def passed(self, state: State, pairs: Sequence[Pair]) -> list[Candidate]:
        hopeful = [pair for pair in pairs if not self._is_perfect(pair[0])]
        gains = await differences(state, hopeful)
        return [child for (job, child), gain in zip(hopeful, gains, strict=True) if self._passes(job, gain)]

    def _is_perfect(self, job: Job) -> bool:
        if self.perfect is None or not job.outcomes:
            return False
        return all(outcome.reward >= self.perfect for outcome in job.outcomes)

    def _passes(self, job: Job, gain: Sequence[float]) -> bool:
        return not job.outcomes or total(gain) > 0 or (total(gain) == 0 and not self.strict)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Passes a child whose gain on the batch has a one-sided p of at most `level` (sign or permutation test).

    With rewards of 0 and 1 the level 0.5 asks for one task more won than lost if no others differ, 0.25 for two.
    """

    level: float = 0.25

    async def passed(self, state: State, pairs: Sequence[Pair]) -> list[Candidate]:
        gains = await differences(state, pairs)
        return [
            child
            for (job, child), gain in zip(pairs, gains, strict=True)
            if not job.outcomes or (total(gain) > 0 and paired_p(gain, greater=True)[0] <= self.level)
        ]


async def differences(state: State, pairs: Sequence[Pair]) -> list[list[float]]:
    """Child minus parent on each task of the job's batch; on as many of each batch as there is room for."""
    most = max((len(job.outcomes) for job, _ in pairs), default=0)
    while most and state.trials.new(_wanted(pairs, most)) > state.trials.room():
        most -= 1
    outcomes = iter(await state.trials.run(_wanted(pairs, most)))
    return [[next(outcomes).reward - parent.reward for parent in job.outcomes[:most]] for job, _ in pairs]


def _wanted(pairs: Sequence[Pair], most: int):
    return [(child, outcome.place) for job, child in pairs for outcome in job.outcomes[:most]]
