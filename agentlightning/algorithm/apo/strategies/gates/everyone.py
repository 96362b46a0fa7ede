"""`Everyone`: no gate. The documented APO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...candidate import Candidate
from ..base import Job

if TYPE_CHECKING:
    from ...state import State


@dataclass(frozen=True, slots=True)
class Everyone:
    """Lets every child through."""

    async def passed(self, state: State, pairs: Sequence[tuple[Job, Candidate]]) -> list[Candidate]:
        return [child for _, child in pairs]
