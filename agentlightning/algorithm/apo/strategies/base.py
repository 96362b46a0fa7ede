"""What a strategy of each kind is: `loop` calls them, `plan` puts them together, each implementation is a small file.

A round is: the selector names parents, the proposer makes children of them, the gate drops children that do worse than
their parent where it is cheap to see, the evaluator spends validation rollouts and names the best so far, the selector
says what stays in the archive, the stopper ends the run. Strategies read `State`, ask for rollouts by
`state.trials.run(...)` in as few and as big calls as they can, and return decisions; they write nothing to the state.
What they remember from round to round must follow from the state and from what trials returned, because a run that is
resumed asks them everything again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from ..candidate import Candidate, Proposal
from ..outcome import Outcome

if TYPE_CHECKING:
    from ..state import State


Rank: TypeAlias = "Callable[[State, Sequence[Candidate]], list[Candidate]]"
"""Best first: `Evaluator.rank`, which selectors are given."""


class Job(NamedTuple):
    """One child to make."""

    number: int
    """Within the round, from 0."""
    parent: Candidate
    component: str
    """Which prompt to change."""
    outcomes: Sequence[Outcome]
    """The parent's rollouts on the train batch of this job; empty where the proposer needs none."""


class Selector(Protocol):
    """Chooses parents, and what stays in the archive."""

    def parents(self, state: State) -> list[Candidate]:
        """Parents of this round: one entry for each child wanted, so one may come several times."""
        ...

    def keep(self, state: State, children: Sequence[Candidate]) -> list[Candidate]:
        """The archive after the round. `children` came through the gate and were evaluated."""
        ...


class Proposer(Protocol):
    """Writes children."""

    batch_size: int
    """Train tasks that the parent is tried on for each job; 0: none."""

    async def propose(self, state: State, jobs: Sequence[Job]) -> list[Proposal | None]:
        """A proposal for each job, in order; `None` where nothing came of it."""
        ...


class Gate(Protocol):
    """Drops children that are not worth validation rollouts."""

    async def passed(self, state: State, pairs: Sequence[tuple[Job, Candidate]]) -> list[Candidate]:
        """Those that go on, in the order given."""
        ...


class Evaluator(Protocol):
    """Spends validation rollouts."""

    async def evaluate(self, state: State, children: Sequence[Candidate]) -> Candidate:
        """Try the children on validation tasks; returns the best candidate so far: `state.best` or a better one.

        Spends no more than there is room for, and raises nothing when that is little.
        """
        ...

    def rank(self, state: State, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Best first, by what this evaluator measured; of equals the one that was given first."""
        ...

    async def finish(self, state: State) -> Candidate:
        """After the last round: the last word on which is the best, with what is left of the budget."""
        ...


class Stopper(Protocol):
    """Ends a run before its rounds are over."""

    def reason(self, state: State) -> str | None:
        """Why to stop now, in a few words; `None` to go on."""
        ...
