"""`State`: what a run knows. Strategies read it and return decisions; only `loop` and `trials` write to it.

Everything random is drawn from `State.rng(...)`, which depends on the seed and on what it is drawn for, never on the
order in which runners finish. Everything paid goes through `trials` and `writer`, which remember it in the store. So a
run that is started again with the same seed takes the same decisions, is given what it paid for already, and goes on
where it was killed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentlightning.types import PromptTemplate
from agentlightning.utils.seeds import stable_seed

from .candidate import Candidate, Proposal
from .guard import problem_with
from .outcome import Place, Split

if TYPE_CHECKING:
    from .budget import Ledger
    from .trials import Trials
    from .writer import Writer


@dataclass(slots=True)
class Round:
    """What one round did, for the report."""

    number: int
    proposed: int = 0
    """Texts that the proposer returned."""
    rejected: dict[str, int] = field(default_factory=dict[str, int])
    """Reason -> how many of them were not admitted."""
    admitted: list[str] = field(default_factory=list[str])
    """Ids."""
    gated: list[str] = field(default_factory=list[str])
    """Ids of the admitted that the gate let through."""
    archive: list[str] = field(default_factory=list[str])
    """Ids that parents are chosen from after it."""
    best: str = ""
    best_score: float = 0.0
    """Mean validation reward of the best so far."""
    rollouts: int = 0
    """Paid so far, by the end of the round."""


@dataclass(slots=True)
class State:
    """What a run knows."""

    start: Mapping[str, PromptTemplate]
    """The tuned prompts as they were given, by resource name."""
    trials: Trials
    writer: Writer
    ledger: Ledger
    seed: int
    candidates: list[Candidate] = field(default_factory=list[Candidate])
    """All that were admitted, the start first."""
    archive: list[Candidate] = field(default_factory=list[Candidate])
    """Those that parents are chosen from."""
    rounds: list[Round] = field(default_factory=list[Round])
    best: Candidate | None = None
    """Chosen on validation so far; the start at first."""

    @property
    def round(self) -> int:
        """The round that is under way, from 1; 0 before the first."""
        return len(self.rounds)

    def rng(self, *what: int | str) -> random.Random:
        """A generator for one decision, such as `rng("parents", state.round)`."""
        return random.Random(stable_seed(self.seed, *what))

    def admit(self, proposal: Proposal) -> Candidate | None:
        """Make a proposal a candidate, unless its texts are broken or known; counts why not."""
        now = self.rounds[-1]
        now.proposed += 1
        reason = self._objection(proposal.texts)
        if reason is not None:
            now.rejected[reason] = now.rejected.get(reason, 0) + 1
            return None
        made = Candidate(
            f"v{len(self.candidates)}",
            dict(proposal.texts),
            tuple(parent.id for parent in proposal.parents),
            proposal.operator,
            self.round,
            proposal.component,
            proposal.why,
        )
        self.candidates.append(made)
        now.admitted.append(made.id)
        return made

    def _objection(self, texts: Mapping[str, str]) -> str | None:
        for name, text in texts.items():
            if problem := problem_with(self.start[name].model_copy(update={"template": text}), self.start[name]):
                return problem
        if any(candidate.texts == texts for candidate in self.candidates):
            return "duplicate"
        return None

    def scores(self, candidate: Candidate, split: Split = "val") -> dict[int, float]:
        """Task index -> mean reward over its rollouts, of those tasks that the candidate was tried on."""
        return self.trials.scores(candidate, split)

    def mean(self, candidate: Candidate, split: Split = "val", tasks: Iterable[int] | None = None) -> float | None:
        """Mean reward over `tasks` (default: all that it was tried on); `None` where there is no rollout."""
        known = self.scores(candidate, split)
        values = [known[task] for task in (known if tasks is None else tasks) if task in known]
        return sum(values) / len(values) if values else None

    def all_places(self, split: Split) -> list[Place]:
        """One rollout of every task of a split."""
        return [Place(split, task) for task in range(self.trials.size(split))]

    def ranked(self, candidates: Sequence[Candidate], split: Split = "val") -> list[Candidate]:
        """By mean reward, best first; those that came first win ties, those without a rollout come last."""
        means = {candidate.id: self.mean(candidate, split) for candidate in candidates}
        return sorted(candidates, key=lambda c: -(m if (m := means[c.id]) is not None else float("-inf")))
