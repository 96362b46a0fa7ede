"""PF-PPO: rows drawn again by how telling their score is, after the advantages are known (arXiv 2409.06957).

Called by the training loop if `algorithm.use_pf_ppo`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agentlightning.types import ConfigError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

REWEIGHT_METHODS = ("pow", "max_min", "max_random")


def pf_ppo_weights(scores: Float64, reweight_method: str = "pow", weight_pow: float = 2.0) -> Float64:
    """(B,) scores, each row's summed token-level scores -> (B,) probabilities of being drawn.

    Args:
        scores: One number a row.
        reweight_method: `pow`: |score| to the power `weight_pow`. `max_min`: 1 for rows with the highest or the lowest
            score, 0 for the others. `max_random`: 0.4 for rows with the highest score, 0.1 for the others.
        weight_pow: Of `pow`.

    Raises:
        ConfigError: unknown method.
        ValueError: a score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"the score of row {row} is {scores[row]}, which can't weigh it; drop rows without a score")
    best, worst = scores == scores.max(initial=-np.inf), scores == scores.min(initial=np.inf)
    if reweight_method == "pow":
        weights = np.abs(scores) ** weight_pow
    elif reweight_method == "max_min":
        weights = (best | worst).astype(np.float64)
    elif reweight_method == "max_random":
        weights = np.where(best, 0.4, 0.1)
    else:
        raise ConfigError(
            f"`algorithm.pf_ppo.reweight_method` {reweight_method!r} is not one of {', '.join(REWEIGHT_METHODS)}"
        )
    weights = weights + 1e-8
    return weights / weights.sum()


def pf_ppo_rows(
    scores: Float64,
    generator: np.random.Generator,
    *,
    reweight_method: str = "pow",
    weight_pow: float = 2.0,
) -> Int64:
    """(B,) row numbers drawn with replacement by `pf_ppo_weights`, as many as there are rows."""
    weights = pf_ppo_weights(scores, reweight_method, weight_pow)
    return generator.choice(len(weights), size=len(weights), p=weights) if len(weights) else np.zeros(0, np.int64)
