"""Where ours is meant to differ from verl, and why: `compare.py` takes nothing else for equal."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

Maybe = np.ndarray | None


class Reason(NamedTuple):
    """A deviation that is known."""

    text: str
    titles: str
    """A regular expression: the titles of results that it may explain."""
    only_where_theirs_is_nan: bool = False
    """It explains numbers of ours where verl's are NaN, nothing else."""
    missing: str | None = None
    """It explains results that only `ours` has, or only `verl`."""
    at_most: float = np.inf
    """It explains no larger deviation."""

    def explains(self, title: str, ours: Maybe, theirs: Maybe, deviation: float) -> bool:
        if not re.search(self.titles, title) or deviation > self.at_most:
            return False
        if self.missing is not None:
            return (theirs is None) if self.missing == "ours" else (ours is None)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return False
        if self.only_where_theirs_is_nan:
            there = ~np.isnan(theirs)
            return not there.all() and np.allclose(ours[there], theirs[there], 1e-5)
        return True


REASONS = (
    Reason(
        "ties are exactly 0; verl divides their rounding errors by 1e-6",
        r"^(grpo|grpo_vectorized|grpo_passk|gdpo|rloo|rloo_vectorized|opo|gpg|reinforce_plus_plus_baseline) "
        r"\| all scores",
        at_most=0.1,
    ),
    Reason(
        "a group without a trained token has advantages 0; verl divides 0 by 0",
        r"^opo \| empty",
        only_where_theirs_is_nan=True,
    ),
    Reason(
        "what is not trained has gradient 0, whatever stands there; verl's is NaN where an input is",
        r"\| nan, .* \| gradient$",
        only_where_theirs_is_nan=True,
    ),
    Reason(
        "verl computes it in float32, also for float64 rewards",
        r"^(gdpo|grpo_vectorized) \| .*float64 \| (advantages|returns)$",
        at_most=1e-5,
    ),
    Reason(
        "rows without a trained token count nowhere; verl takes their means for 0",
        r"^rollout correction \| .*empty.* \| rollout_corr/.*(seq|ppl)",
    ),
    Reason(
        "the same for a product over the row",
        r"^rollout correction \| is=sequence.*empty.* \| rollout_corr/rollout_is_(max|min|ratio_fraction_(high|low))$",
    ),
    Reason(
        "the deviation of equal numbers is 0; verl's is the root of a rounding error",
        r"^rollout correction \| .*float32 \| rollout_corr/.*_std$",
        at_most=1e-4,
    ),
    Reason(
        "with all weights 0 the effective sample size is 0; verl divides by 0 and ends",
        r"^rollout correction \| is=sequence is_threshold=0.6_1.4, holes, log-ratios of 12",
        missing="ours",
    ),
    Reason(
        "the same: its error",
        r"^rollout correction \| is=sequence is_threshold=0.6_1.4, holes, log-ratios of 12.* \| error$",
        missing="verl",
    ),
    Reason(
        "shares that a loss can't clip are 0; verl leaves them out",
        r"^policy loss (clip_cov|kl_cov) .* \| actor/pg_clipfrac",
        missing="ours",
    ),
)
