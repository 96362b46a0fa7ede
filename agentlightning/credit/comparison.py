"""A number against those of the other rollouts of its group. Called by the rules that are `relative`."""

from __future__ import annotations

import math
from collections.abc import Sequence

EPSILON = 1e-6
"""Added to the standard deviation, as in GRPO (arXiv 2402.03300)."""


def compared(value: float, values: Sequence[float], *, norm_by_std: bool) -> float | None:
    """`(value - mean) / (std + 1e-6)`, std the sample one; 0 where all are equal, `None` where there is no other.

    Args:
        value: The number, one of `values`.
        values: One number for each rollout that has one.
        norm_by_std: `False` leaves out the division.
    """
    if len(values) < 2:
        return None
    # Equal numbers may differ by rounding, which the division would blow up.
    if math.isclose(min(values), max(values), rel_tol=1e-12):
        return 0.0
    mean = math.fsum(values) / len(values)
    if not norm_by_std:
        return value - mean
    deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in values) / (len(values) - 1))
    return (value - mean) / (deviation + EPSILON)
