"""Stoppers: when to end a run before its rounds are over. The budget ends it in any case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .base import Stopper

if TYPE_CHECKING:
    from ..state import State


@dataclass(frozen=True, slots=True)
class Never:
    """Goes on until the rounds are over."""

    def reason(self, state: State) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class NoImprovement:
    """Stops when the best has been the same for so many rounds."""

    rounds: int = 3

    def reason(self, state: State) -> str | None:
        # The start is the best before the first round.
        best = [state.candidates[0].id, *(each.best for each in state.rounds)]
        if len(best) <= self.rounds or len(set(best[-self.rounds - 1 :])) > 1:
            return None
        return f"no better prompt in {self.rounds} rounds"


@dataclass(frozen=True, slots=True)
class NothingNew:
    """Stops when so many rounds made no prompt that was not there already: the writer repeats itself."""

    rounds: int = 5

    def reason(self, state: State) -> str | None:
        last = state.rounds[-self.rounds :]
        if len(last) < self.rounds or any(each.admitted for each in last):
            return None
        return f"no new prompt in {self.rounds} rounds"


@dataclass(frozen=True, slots=True)
class Target:
    """Stops when the best reaches a mean reward on all validation tasks."""

    score: float = 1.0

    def reason(self, state: State) -> str | None:
        best = state.best or state.candidates[0]
        scores = state.scores(best)
        if not scores or len(scores) < state.trials.size("val"):
            return None
        mean = sum(scores.values()) / len(scores)
        return f"the best prompt has {mean:g} on validation, target {self.score:g}" if mean >= self.score else None


@dataclass(frozen=True, slots=True)
class LittleRoom:
    """Stops when the budget allows fewer rollouts than a round needs, or than are wanted for the end.

    Args:
        rollouts: As a number.
        share: As a share of all that was allowed. The greater of the two counts.
    """

    rollouts: int = 1
    share: float = 0.0

    def reason(self, state: State) -> str | None:
        room = state.trials.room()
        least = max(self.rollouts, self.share * (room + state.ledger.spent.rollouts))
        return f"the budget allows {room} more rollouts, too few for a round" if room < least else None


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Stops when one of several would."""

    stoppers: Sequence[Stopper] = field(default_factory=tuple[Stopper, ...])

    def reason(self, state: State) -> str | None:
        return next((reason for each in self.stoppers if (reason := each.reason(state)) is not None), None)
