"""`Merge`: two candidates that were improved on separate ways become one (GEPA's merge, spec section 3).

Of several prompts each is taken from the candidate that changed it since their common ancestor; where both did, from
the better one. Where that brings nothing new, as with one prompt alone, the editor merges the two texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from ...candidate import Candidate, Proposal
from ...meta_prompts import MERGE
from ...models import Models
from ...replies import between_tags
from ..base import Job
from .common import ask_for_text, check_batch_size, given

if TYPE_CHECKING:
    from ...state import State


class _Pair(NamedTuple):
    better: Candidate
    other: Candidate
    texts: dict[str, str]
    """Of the merged candidate."""
    component: str
    """The prompt that is left to the editor; empty where none is."""


class Merge:
    """Merges pairs of the archive.

    Args:
        batch_size: Train tasks that the parent is tried on for each child, for gates that compare on them.
        models: The editor merges texts.
    """

    def __init__(self, batch_size: int = 0, *, models: Models | None = None) -> None:
        self.batch_size = check_batch_size(batch_size, 0)
        self._model = (models or Models()).editor

    async def propose(self, state: State, jobs: Sequence[Job]) -> list[Proposal | None]:
        """A merge for each job, of its parent with another candidate where they fit; `None` where no pair is left."""
        pairs: dict[int, _Pair] = {}
        # The same two are merged once, however that went.
        used = {frozenset(c.parents) for c in state.candidates if c.operator == "merge"}
        for job in jobs:
            pair = next(_pairs(state, job, state.rng("merge", state.round, job.number), used), None)
            if pair is not None:
                used.add(frozenset((pair.better.id, pair.other.id)))
                pairs[job.number] = pair
        asked = {number: self._ask(state, pair) for number, pair in pairs.items() if pair.component}
        replies = await ask_for_text(state, "merge", self._model, asked)
        made: dict[int, Proposal] = {}
        for number, pair in pairs.items():
            texts = pair.texts
            if pair.component:
                if number not in replies:
                    continue
                texts = {**texts, pair.component: between_tags(replies[number].text)}
            made[number] = Proposal(texts, (pair.better, pair.other), "merge", pair.component)
        return [made.get(job.number) for job in jobs]

    def _ask(self, state: State, pair: _Pair) -> list[dict[str, str]]:
        name = pair.component
        first, second = pair.better.texts[name], pair.other.texts[name]
        return MERGE.message(**given(state, name, first), first=first, second=second)


def _pairs(state: State, job: Job, rng: Random, used: set[frozenset[str]]) -> Iterator[_Pair]:
    """Pairs that can be merged, in random order; those with the job's parent first."""
    archive = sorted({c.id: c for c in (*state.archive, job.parent)}.values(), key=lambda c: int(c.id[1:]))
    couples = [(a, b) for i, a in enumerate(archive) for b in archive[i + 1 :]]
    rng.shuffle(couples)
    couples.sort(key=lambda couple: job.parent not in couple)
    ancestors = _Ancestors(state.candidates)
    for first, second in couples:
        if frozenset((first.id, second.id)) in used or ancestors.related(first, second):
            continue
        better, other = state.ranked([first, second])
        common = _common(state, ancestors, better, other, rng)
        if common is not None and (pair := _merged(state, common, better, other, rng)) is not None:
            yield pair


class _Ancestors:
    """Who descends from whom."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.by_id = {candidate.id: candidate for candidate in candidates}
        self._of: dict[str, set[str]] = {}
        for candidate in candidates:  # parents come before their children
            self._of[candidate.id] = set(candidate.parents).union(*(self._of[each] for each in candidate.parents))

    def related(self, first: Candidate, second: Candidate) -> bool:
        """Whether one is the other's ancestor: it holds already what the other could give."""
        return first.id in self._of[second.id] or second.id in self._of[first.id]

    def common(self, first: Candidate, second: Candidate) -> list[Candidate]:
        """In the order of their admission."""
        both = self._of[first.id] & self._of[second.id]
        return [candidate for candidate in self.by_id.values() if candidate.id in both]


def _common(state: State, ancestors: _Ancestors, better: Candidate, other: Candidate, rng: Random) -> Candidate | None:
    """A common ancestor that neither fell behind, drawn by its score: the nearer ones tend to score higher."""
    means = {c.id: state.mean(c) for c in (better, other)}
    low = min((mean for mean in means.values() if mean is not None), default=None)
    if low is None or None in means.values():
        return None
    found = [(c, mean) for c in ancestors.common(better, other) if (mean := state.mean(c)) is not None and mean <= low]
    if not found:
        return None
    weights = [max(mean, 0.0) + 1e-6 for _, mean in found]
    return rng.choices([candidate for candidate, _ in found], weights)[0]


def _merged(state: State, ancestor: Candidate, better: Candidate, other: Candidate, rng: Random) -> _Pair | None:
    """`None` where the merged texts are those of a known candidate."""
    texts: dict[str, str] = {}
    both_changed: list[str] = []
    for name in sorted(better.texts):
        one, two, before = better.texts[name], other.texts[name], ancestor.texts[name]
        texts[name] = two if one == before else one
        if one != two and before not in (one, two):
            both_changed.append(name)
    if all(texts != candidate.texts for candidate in state.candidates):
        return _Pair(better, other, texts, "")
    return _Pair(better, other, texts, rng.choice(both_changed)) if both_changed else None
