"""The law of entropy and reward, R = -a exp(H) + b (arXiv 2505.22617), fitted to the steps of runs. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class EntropyFit:
    """R = -a exp(H) + b by least squares; `r2` is the share of the rewards' variance that it explains."""

    a: float
    b: float
    r2: float

    @property
    def ceiling(self) -> float:
        """The reward that is left to gain by giving up all entropy: R at H = 0."""
        return self.b - self.a


def entropy_fit(entropies: Sequence[float], rewards: Sequence[float]) -> EntropyFit:
    """Fit one line through rewards over exp(entropy).

    Args:
        entropies: Nats a token, one each step.
        rewards: Mean reward of the same steps.

    Raises:
        ValueError: there are fewer than three steps, or the entropy never changes.
    """
    x, y = np.exp(np.asarray(entropies, np.float64)), np.asarray(rewards, np.float64)
    if len(x) < 3 or np.ptp(x) == 0:
        raise ValueError(f"{len(x)} steps with entropies from {min(entropies)} to {max(entropies)} have no line")
    slope, b = np.polyfit(x, y, 1)
    spread = float(np.sum((y - y.mean()) ** 2))
    r2 = 1.0 - float(np.sum((y - slope * x - b) ** 2)) / spread if spread else 0.0
    return EntropyFit(-float(slope), float(b), r2)
