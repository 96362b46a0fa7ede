"""`Critique`: a critic says what is wrong with the prompt, an editor mends it. The documented way (spec section 1.2).

Two calls a child: the textual gradient and the step along it. With `paraphrases` as in ProTeGi (spec section 2): some
children are paraphrases of the edited texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentlightning.types import ConfigError

from ...candidate import Proposal
from ...meta_prompts import PARAPHRASE
from ...models import Models
from ...replies import between_tags
from ...transcript import experiments, runs
from ..base import Job
from .common import ask, ask_for_text, check_batch_size, child, draw, given, others_of, prompt_of

if TYPE_CHECKING:
    from ...outcome import Outcome
    from ...state import State
    from ...writer import Reply


class Critique:
    """Critic, then editor.

    Args:
        batch_size: Train tasks that the parent is tried on for each child.
        models: Critic and editor.
        shown: Rollouts that a critic sees at most; all of the batch by default.
        only_below: Show only rollouts with a reward below this, all where none is. ProTeGi shows errors alone.
        paraphrases: For each edited text so many children are paraphrases of it; they come after it among the jobs.
        longest: Characters of a transcript.

    Raises:
        ConfigError: a number that can't be used.
    """

    def __init__(
        self,
        batch_size: int = 4,
        *,
        models: Models | None = None,
        shown: int | None = None,
        only_below: float | None = None,
        paraphrases: int = 0,
        longest: int = 8000,
    ) -> None:
        self.batch_size = check_batch_size(batch_size)
        self._models = models or Models()
        if shown is not None and shown < 1:
            raise ConfigError(f"`shown` must be at least 1, not {shown!r}")
        if paraphrases < 0:
            raise ConfigError(f"`paraphrases` must be at least 0, not {paraphrases!r}")
        self._shown = shown or batch_size
        self._only_below = only_below
        self._paraphrases = paraphrases
        self._longest = longest

    async def propose(self, state: State, jobs: Sequence[Job]) -> list[Proposal | None]:
        """Children of the jobs' parents; `None` where critic or editor said nothing."""
        groups = self._groups(jobs)
        heads = [group[0] for group in groups]
        critiques = await ask(
            state, "critic", self._models.critic, {job.number: self._ask_critic(state, job) for job in heads}
        )
        edits = await ask_for_text(
            state,
            "editor",
            self._models.editor,
            {
                job.number: self._ask_editor(state, job, critiques[job.number])
                for job in heads
                if job.number in critiques
            },
        )
        made: dict[int, Proposal | None] = {}
        for job in heads:
            if (edit := edits.get(job.number)) is not None:
                made[job.number] = child(job, between_tags(edit.text), "critique", critiques[job.number].text)
        await self._paraphrase(state, groups, made)
        return [made.get(job.number) for job in jobs]

    def _groups(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """An edit and its paraphrases: jobs of one parent and one prompt."""
        alike: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            alike.setdefault((job.parent.id, job.component), []).append(job)
        size = 1 + self._paraphrases
        return [same[start : start + size] for same in alike.values() for start in range(0, len(same), size)]

    def _ask_critic(self, state: State, job: Job) -> list[dict[str, str]]:
        prompt = prompt_of(state, job.parent, job.component)
        shown = experiments(
            self._chosen(state, job), prompt, others_of(state, job.parent, job.component), self._longest
        )
        meta = draw(state, "which critic", job.number, self._models.critics)
        return meta.message(**given(state, job.component, prompt.template), runs=runs(shown), experiments=shown)

    def _chosen(self, state: State, job: Job) -> list[Outcome]:
        """In random order, as documented."""
        below = [o for o in job.outcomes if self._only_below is not None and o.reward < self._only_below]
        outcomes = below or list(job.outcomes)
        return state.rng("critic", state.round, job.number).sample(outcomes, min(self._shown, len(outcomes)))

    def _ask_editor(self, state: State, job: Job, critique: Reply) -> list[dict[str, str]]:
        meta = draw(state, "which editor", job.number, self._models.editors)
        values = given(state, job.component, job.parent.texts[job.component])
        return meta.message(**values, critique=critique.text)

    async def _paraphrase(self, state: State, groups: list[list[Job]], made: dict[int, Proposal | None]) -> None:
        """Of the edited text; of the parent's where the edit came to nothing."""
        sources = {job.number: made.get(head.number) for head, *copies in groups for job in copies}
        jobs = [job for _, *copies in groups for job in copies]
        asked = {
            job.number: PARAPHRASE.message(
                **given(state, job.component, (source.texts if source else job.parent.texts)[job.component])
            )
            for job in jobs
            for source in [sources[job.number]]
        }
        replies = await ask_for_text(state, "paraphrase", self._models.editor, asked)
        for job in jobs:
            if (reply := replies.get(job.number)) is not None:
                source = sources[job.number]
                made[job.number] = child(job, between_tags(reply.text), "paraphrase", source.why if source else "")
