"""`Mixed`: several proposers share the jobs of a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentlightning.types import ConfigError

from ...candidate import Proposal
from ...models import Models
from ..base import Job, Proposer

if TYPE_CHECKING:
    from ...state import State


class Mixed:
    """Each job goes to one of several proposers by lot. Where that makes nothing of it, to the first.

    So a merge, which needs two candidates that fit, can be tried from the first round on.

    Args:
        parts: Names, mappings of `name` and options, or proposers.
        weights: How often each is drawn, relative to the others; all alike by default.
        models: Critic and editor of the parts.

    Raises:
        ConfigError: no parts, or weights that don't fit them.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        weights: Sequence[float] | None = None,
        *,
        models: Models | None = None,
    ) -> None:
        from .. import build  # the table of strategies has `Mixed` in it

        self._parts: list[Proposer] = [build("proposer", part, models=models) for part in parts]
        self._weights = [1.0] * len(parts) if weights is None else list(weights)
        if not parts or len(self._weights) != len(parts) or min(self._weights) < 0 or sum(self._weights) <= 0:
            raise ConfigError(f"`weights` {self._weights} must be one number from 0 for each of {len(parts)} `parts`")
        self.batch_size = max(part.batch_size for part in self._parts)

    async def propose(self, state: State, jobs: Sequence[Job]) -> list[Proposal | None]:
        """Children of the jobs' parents."""
        drawn = {
            job.number: state.rng("mix", state.round, job.number).choices(range(len(self._parts)), self._weights)[0]
            for job in jobs
        }
        made: dict[int, Proposal | None] = {}
        for part in reversed(range(len(self._parts))):
            own = [job for job in jobs if drawn[job.number] == part or (part == 0 and made.get(job.number) is None)]
            if own:
                proposals = await self._parts[part].propose(state, own)
                made |= {job.number: proposal for job, proposal in zip(own, proposals, strict=True)}
        return [made[job.number] for job in jobs]
