"""How sure a mean or a difference is: intervals and paired tests for the gates, the choice of the best and the report.

Exact where it is small. Nothing here knows candidates or stores: numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Bounds = tuple[float, float]
"""The smallest and the greatest reward that there can be."""
UNBOUNDED: Bounds = (-math.inf, math.inf)
EXACT_UP_TO = 16
"""Differences that are not 0, up to which all sign patterns are counted."""
DRAWS = 100_000
"""Random sign patterns beyond that: the error of a p of 0.05 is 0.0014."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where the true one lies."""

    mean: float
    low: float
    high: float
    n: int
    method: str
    """`wilson` (rewards of 0 and 1) or `t`."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two candidates on the same tasks."""

    difference: float
    """Mean of (second - first)."""
    low: float
    high: float
    p: float
    """Chance of a mean difference as far from 0 (on either side, or as great) if the two were equally good."""
    wins: int
    """Tasks on which the second does better."""
    losses: int
    ties: int
    method: str
    """`sign` or `permutation`: how `p` was found. They agree where all differences are of the same size."""

    @property
    def n(self) -> int:
        return self.wins + self.losses + self.ties


def mean_interval(values: Sequence[float], level: float = 0.95, bounds: Bounds = UNBOUNDED) -> Interval:
    """Mean reward with its confidence interval: Wilson's for 0 and 1, Student's t for anything else.

    Student's ends at the `bounds` of what a reward can be. Of one value that is neither 0 nor 1 nothing else is known.
    Raises `ValueError` without one.
    """
    if not values:
        raise ValueError("`values` is empty: a mean needs at least one")
    mean = sum(values) / len(values)
    if all(value in (0, 1) for value in values):
        return Interval(mean, *_wilson(mean, len(values), level), len(values), "wilson")
    half = _t_half(values, level)
    return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), len(values), "t")


def compare(
    first: Sequence[float],
    second: Sequence[float],
    level: float = 0.95,
    *,
    greater: bool = False,
    bounds: Bounds = UNBOUNDED,
) -> Comparison:
    """Paired comparison: `first[i]` and `second[i]` are rewards on the same task.

    `p` is two-sided; with `greater` it is the chance of a difference at least as great in favour of the second. It
    comes from the signs where all differences have one size (an exact binomial test), else from flipping signs
    (Fisher's randomisation test), exact up to `EXACT_UP_TO` differences. The interval of the difference is Student's,
    which ends where the `bounds` of a reward do; for rewards of 0 and 1 the adjusted Wald interval of Bonett and Price
    (2012), which is no point where all agree.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"`first` has {len(first)} values and `second` {len(second)}: both need one for each task")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    ties = len(differences) - wins - losses
    if all(value in (0, 1) for value in (*first, *second)):
        low, high = _bonett_price(wins, losses, len(differences), level)
    else:
        half = _t_half(differences, level)
        mean, most = sum(differences) / len(differences), bounds[1] - bounds[0]
        low, high = max(mean - half, -most), min(mean + half, most)
    p, method = paired_p(differences, greater=greater)
    return Comparison(sum(differences) / len(differences), low, high, p, wins, losses, ties, method)


def paired_p(differences: Sequence[float], *, greater: bool = False) -> tuple[float, str]:
    """The chance of a sum as far from 0 (with `greater`: as great) when each sign is a coin's; and how it was found."""
    moved = [d for d in differences if d]
    if not moved:
        return 1.0, "sign"
    if len({round(abs(d), 12) for d in moved}) == 1:
        return sign_p(sum(d > 0 for d in moved), sum(d < 0 for d in moved), greater=greater), "sign"
    sums = _flipped(np.array(moved))
    observed = sum(moved)
    # Sums of the same numbers in another order differ in their last bits.
    slack = 1e-9 * sum(map(abs, moved))
    reached = sums >= observed - slack if greater else np.abs(sums) >= abs(observed) - slack
    if len(moved) <= EXACT_UP_TO:
        return float(reached.mean()), "permutation"
    return float((reached.sum() + 1) / (len(sums) + 1)), "permutation"


def sign_p(wins: int, losses: int, *, greater: bool = False) -> float:
    """Exact sign test: chance of a split as uneven (with `greater`: of as many wins), heads and tails being equal."""
    n = wins + losses
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(wins if greater else max(wins, losses), n + 1)) / 2**n
    return tail if greater else min(1.0, 2 * tail)


def bernstein_radius(values: Sequence[float], delta: float, span: float) -> float:
    """Empirical Bernstein bound: with probability 1 - `delta` the true mean is no farther from that of `values`.

    `span` is the difference of the greatest and the smallest possible value (Audibert et al. 2007, theorem 1).
    """
    n = len(values)
    log = math.log(3 / delta)
    return math.sqrt(2 * float(np.var(values)) * log / n) + 3 * span * log / n


def t_quantile(level: float, freedom: int) -> float:
    """Two-sided quantile of Student's t: `level` of its mass lies within plus and minus this."""
    low, high = 0.0, 1.0
    while _t_mass(high, freedom) < level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_mass(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def _t_mass(t: float, freedom: int) -> float:
    """Mass of Student's t within -t..t, by the finite sums for whole degrees of freedom (Abramowitz, Stegun 26.7.3)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    for step in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= cosine * cosine * step / (step + 1)
    return (2 / math.pi) * (angle + sine * total) if freedom % 2 else sine * total


def _t_half(values: Sequence[float], level: float) -> float:
    if len(values) < 2:
        return math.inf
    return t_quantile(level, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _wilson(mean: float, n: int, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (centre - half if mean > 0 else 0.0), (centre + half if mean < 1 else 1.0)


def _bonett_price(wins: int, losses: int, n: int, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def _flipped(values: np.ndarray) -> np.ndarray:
    """Sums of `values` with signs flipped: all 2**n of them, or `DRAWS` at random where there are too many."""
    if len(values) > EXACT_UP_TO:
        coins, drawn = np.random.default_rng(0), np.zeros(DRAWS)
        for value in np.abs(values):
            drawn += np.where(coins.random(DRAWS) < 0.5, value, -value)
        return drawn
    sums = np.zeros(1)
    for value in np.abs(values):
        sums = np.concatenate((sums + value, sums - value))
    return sums
