"""`History`: past prompts with their scores, lowest first, and the request for a better one.

Source: OPRO, arXiv 2309.03409 (spec section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...candidate import Proposal
from ...meta_prompts import HISTORY
from ...models import Models
from ...replies import between_tags
from ...transcript import experiments, runs
from ..base import Job
from .common import ask_for_text, check_batch_size, child, given, prompt_of, sample

if TYPE_CHECKING:
    from ...state import State


class History:
    """Shows what was tried and how it went on validation: texts and mean scores, no validation task.

    Args:
        batch_size: Train tasks that the parent is tried on for each child, for gates that compare on them.
        models: The critic writes: it has to see what the texts have in common.
        top: How many of the best texts are shown.
        tasks: Of the batch so many tasks are shown, with reward and feedback but without what was said.
    """

    def __init__(
        self,
        batch_size: int = 0,
        *,
        models: Models | None = None,
        top: int = 20,
        tasks: int = 3,
    ) -> None:
        self.batch_size = check_batch_size(batch_size, 0)
        self._model = (models or Models()).critic
        self._top = top
        self._tasks = tasks

    async def propose(self, state: State, jobs: Sequence[Job]) -> list[Proposal | None]:
        """Children of the jobs' parents: in their other prompts they are like them."""
        asked = {job.number: self._ask(state, job) for job in jobs}
        replies = await ask_for_text(state, "history", self._model, asked)
        return [
            child(job, between_tags(replies[job.number].text), "history") if job.number in replies else None
            for job in jobs
        ]

    def _ask(self, state: State, job: Job) -> list[dict[str, str]]:
        prompt = prompt_of(state, job.parent, job.component)
        tasks = sample(state, "exemplars", job, self._tasks)
        return HISTORY.message(
            **given(state, job.component, prompt.template),
            history=self._history(state, job.component),
            runs=runs(experiments(tasks, prompt, calls=False)),
        )

    def _history(self, state: State, component: str) -> list[dict[str, Any]]:
        """The best texts, ascending; of a text that several candidates hold the best mean counts."""
        best: dict[str, float] = {}
        for candidate in state.candidates:
            if (mean := state.mean(candidate)) is not None:
                text = candidate.texts[component]
                best[text] = max(mean, best.get(text, mean))
        top = sorted(best.items(), key=lambda each: each[1])[-self._top :]
        whole = all(0.0 <= mean <= 1.0 for _, mean in top)
        return [{"text": text, "score": str(round(100 * mean)) if whole else f"{mean:.4g}"} for text, mean in top]
