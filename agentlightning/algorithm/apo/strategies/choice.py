"""Who is better when not all were tried on the same validation tasks; how to measure as far as the budget goes.

Called by all evaluators. The rules:

- `measure` tries all contenders on the same tasks, and where the budget is too small for all of them on the longest
  common prefix that it allows: what is measured is always comparable.
- `takes_over`: a rival that was tried on every task that the best was tried on wins with a strictly higher mean over
  those. One that was tried on fewer wins only if a paired one-sided test on the common tasks says so.
- `rank` sorts by the paired difference to the best, shrunk towards 0 where it comes from few tasks: the posterior mean
  under a normal prior that is worth `PRIOR` tasks. With equal numbers of tasks that is the order of the means.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..candidate import Candidate
from ..outcome import Place, Split
from ..stats import paired_p

if TYPE_CHECKING:
    from ..state import State

PRIOR = 4
"""Tasks that the assumption of no difference weighs as much as."""
LEVEL = 0.05
"""Chance at most of preferring a rival that was tried on fewer tasks and is no better."""


def pairs(candidates: Sequence[Candidate], tasks: Sequence[int], repeat: int = 0) -> list[tuple[Candidate, Place]]:
    """Each candidate on each validation task."""
    return [(candidate, Place("val", task, repeat)) for candidate in candidates for task in tasks]


def fitting(
    state: State, candidates: Sequence[Candidate], tasks: Sequence[int], room: int = sys.maxsize, repeat: int = 0
) -> list[int]:
    """The longest prefix of `tasks` on which all can be tried, with at most `room` rollouts and within the budget."""
    room = min(room, state.trials.room())
    low, high = 0, len(tasks)
    while low < high:
        middle = (low + high + 1) // 2
        cost = state.trials.new(pairs(candidates, tasks[:middle], repeat))
        low, high = (middle, high) if cost <= room else (low, middle - 1)
    return list(tasks[:low])


async def measure(
    state: State, candidates: Sequence[Candidate], tasks: Sequence[int], room: int = sys.maxsize, repeat: int = 0
) -> list[int]:
    """Try all candidates on the tasks, or on the prefix for which there is room; returns that prefix."""
    fits = fitting(state, candidates, tasks, room, repeat)
    await state.trials.run(pairs(candidates, fits, repeat))
    return fits


def order(state: State, *what: int | str) -> list[int]:
    """All validation tasks, shuffled: the same for the same `what`."""
    tasks = list(range(state.trials.size("val")))
    state.rng("val order", *what).shuffle(tasks)
    return tasks


def common(state: State, candidates: Sequence[Candidate], split: Split = "val") -> list[int]:
    """Tasks that all were tried on, sorted."""
    tried = [state.scores(candidate, split).keys() for candidate in candidates]
    return sorted(set.intersection(*map(set, tried))) if tried else []


def differences(state: State, first: Candidate, second: Candidate, tasks: Sequence[int] | None = None) -> list[float]:
    """Second minus first, on the tasks of `tasks` (default: all) that both were tried on."""
    a, b = state.scores(first), state.scores(second)
    both = sorted(a.keys() & b.keys()) if tasks is None else [task for task in tasks if task in a and task in b]
    return [b[task] - a[task] for task in both]


def takes_over(state: State, rival: Candidate, best: Candidate, level: float = LEVEL) -> bool:
    """Whether a rival is to replace the best so far; never because it was tried on fewer tasks."""
    ours, theirs = state.scores(best), state.scores(rival)
    ahead = differences(state, best, rival)
    if not ours:
        return bool(theirs)
    if total(ahead) <= 0:
        return False
    return ours.keys() <= theirs.keys() or paired_p(ahead, greater=True)[0] <= level


def best_of(state: State, ranked: Sequence[Candidate], best: Candidate, level: float = LEVEL) -> Candidate:
    """The best so far, or the first of those ranked that takes its place."""
    return next((c for c in ranked if c.id != best.id and takes_over(state, c, best, level)), best)


def rank(state: State, candidates: Sequence[Candidate], prior: float = PRIOR) -> list[Candidate]:
    """Best first; untried ones last, of equals the one that was given first."""
    reference = state.best or state.candidates[0]
    if len(common(state, candidates)) == max((len(state.scores(c)) for c in candidates), default=0):
        return state.ranked(candidates)
    worth = {c.id: _shrunk(differences(state, reference, c), prior) for c in candidates}
    return sorted(candidates, key=lambda c: (not state.scores(c), -worth[c.id]))


def total(values: Sequence[float]) -> float:
    """Sum, 0 where only the last bits of rewards make it something else."""
    return round(sum(values), 9)


def _shrunk(values: Sequence[float], prior: float) -> float:
    return total(values) / (len(values) + prior)
