"""`Paraphrase`: the same prompt in other words. Explores near a good prompt; takes no train rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...candidate import Proposal
from ...meta_prompts import PARAPHRASE
from ...models import Models
from ...replies import between_tags
from ..base import Job
from .common import ask_for_text, check_batch_size, child, given

if TYPE_CHECKING:
    from ...state import State


class Paraphrase:
    """Rewrites without a change of meaning (Monte Carlo search in ProTeGi, arXiv 2305.03495).

    Args:
        batch_size: Train tasks that the parent is tried on for each child, for gates that compare on them.
        models: The editor rewrites.
    """

    def __init__(self, batch_size: int = 0, *, models: Models | None = None) -> None:
        self.batch_size = check_batch_size(batch_size, 0)
        self._model = (models or Models()).editor

    async def propose(self, state: State, jobs: Sequence[Job]) -> list[Proposal | None]:
        """Children of the jobs' parents."""
        asked = {
            job.number: PARAPHRASE.message(**given(state, job.component, job.parent.texts[job.component]))
            for job in jobs
        }
        replies = await ask_for_text(state, "paraphrase", self._model, asked)
        return [
            child(job, between_tags(replies[job.number].text), "paraphrase") if job.number in replies else None
            for job in jobs
        ]
