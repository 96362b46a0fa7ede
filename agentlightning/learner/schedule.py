"""Learning-rate schedules as verl defines them: linear warm-up from 0, then constant or cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Schedule:
    """A multiplier of the learning rate by step, from step 0.

    Args:
        total_steps: Steps of the whole run; the cosine ends there.
        warmup_steps: Steps of linear warm-up; the first of them has rate 0.
        kind: `constant` or `cosine`.
        min_lr_ratio: Where the cosine ends, as a share of the full rate.
        num_cycles: Half waves times two; 0.5 goes down once.
    """

    total_steps: int
    warmup_steps: int = 0
    kind: Literal["constant", "cosine"] = "constant"
    min_lr_ratio: float = 0.0
    num_cycles: float = 0.5

    def __call__(self, step: int) -> float:
        """The multiplier at `step`, at least 0."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        wave = math.cos(2.0 * math.pi * self.num_cycles * progress)
        return max(self.min_lr_ratio, wave * (1 - self.min_lr_ratio) / 2 + (1 + self.min_lr_ratio) / 2)
