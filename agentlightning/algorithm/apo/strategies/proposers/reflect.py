"""`Reflect`: one call that looks at runs and writes the new prompt, as GEPA does (arXiv 2507.19457, spec section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...candidate import Proposal
from ...meta_prompts import REFLECTION
from ...models import Models
from ...replies import between_fences
from ...transcript import experiments, runs
from ..base import Job
from .common import ask_for_text, check_batch_size, child, given, others_of, prompt_of

if TYPE_CHECKING:
    from ...state import State


class Reflect:
    """A single reflection.

    Args:
        batch_size: Train tasks that the parent is tried on for each child; all of them are shown.
        models: The critic reflects.
        perfect: A batch on which each task earned as much teaches nothing: no child is made of it. `None`: always one.
        longest: Characters of a transcript.
    """

    def __init__(
        self,
        batch_size: int = 3,
        *,
        models: Models | None = None,
        perfect: float | None = None,
        longest: int = 8000,
    ) -> None:
        self.batch_size = check_batch_size(batch_size)
        self._model = (models or Models()).critic
        self._perfect = perfect
        self._longest = longest

    async def propose(self, state: State, jobs: Sequence[Job]) -> list[Proposal | None]:
        """Children of the jobs' parents."""
        asked = {job.number: self._ask(state, job) for job in jobs if not self._is_perfect(job)}
        replies = await ask_for_text(state, "reflect", self._model, asked)
        return [
            child(job, between_fences(replies[job.number].text), "reflect") if job.number in replies else None
            for job in jobs
        ]

    def _is_perfect(self, job: Job) -> bool:
        return self._perfect is not None and all(outcome.reward >= self._perfect for outcome in job.outcomes)

    def _ask(self, state: State, job: Job) -> list[dict[str, str]]:
        prompt = prompt_of(state, job.parent, job.component)
        shown = experiments(job.outcomes, prompt, others_of(state, job.parent, job.component), self._longest)
        return REFLECTION.message(**given(state, job.component, prompt.template), runs=runs(shown))
