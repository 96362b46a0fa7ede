"""The old log-probs of a step's tokens, and what is done where sampler and learner disagree on them.

Called by `policy`; rollout correction itself is in `learner.correction`.
"""

from __future__ import annotations

import numpy as np

from agentlightning.learner.correction import compute_rollout_correction
from agentlightning.learner.learner import Learner
from agentlightning.types.tokens import Float32

from .config.schema import RolloutCorrection
from .experience import Experience
from .metrics import gap_metrics

CHECK_EVERY = 50
"""Steps between comparisons of the recorded log-probs with a fresh forward pass."""
LOGPROB_GAP = "training/rollout_logprob_gap"
"""Metric: mean distance of the recorded log-probs from the learner's."""


def with_old_logprobs(
    experience: Experience,
    learner: Learner,
    temperature: float,
    correction: RolloutCorrection,
    step: int,
    metrics: dict[str, float],
) -> Experience:
    """The rows with `old_logprobs`.

    Recorded log-probs are the old ones where the model is in fp32: the native engine samples from the learner's own
    weights. They are computed anew in bf16, where engine and learner round apart; where none were recorded
    (retokenised calls); and for rollout correction, which weighs one against the other. In `bypass_mode` those that
    were recorded count in any case.

    Args:
        experience: With `rollout_logprobs`, NaN where none were recorded; they are filled.
        learner: Of the weights that sampled.
        temperature: That it was sampled at.
        correction: `algorithm.rollout_correction`.
        step: Its number.
        metrics: Whatever was computed anew is compared with what was recorded, and the gap put in here.
    """
    recorded: list[Float32] = [row.columns["rollout_logprobs"] for row in experience.rows]
    rounded = learner.model.dtype.itemsize < 4
    anew = not correction.bypass_mode and (rounded or correction.rollout_is or correction.rollout_rs)
    lacking = any(np.isnan(column).any() for column in recorded)
    check = step % CHECK_EVERY == 1
    if not (anew or lacking or check):
        return experience.with_columns(old_logprobs=recorded)
    fresh = learner.logprobs(experience.rows, temperature)
    metrics |= _gap(experience, step, recorded, fresh)
    filled = [np.where(np.isnan(old), new, old) for old, new in zip(recorded, fresh, strict=True)]
    return experience.with_columns(rollout_logprobs=filled, old_logprobs=fresh if anew else filled)


def _gap(experience: Experience, step: int, recorded: list[Float32], fresh: list[Float32]) -> dict[str, float]:
    """Of the tokens that these weights sampled: not of SPIN's earlier answers, nor of those that nobody recorded."""
    own = [experience.rollouts[row.sequence].sample.step == step for row in experience.rows]
    known = [~np.isnan(column) & here for column, here in zip(recorded, own, strict=True)]
    sampled, learnt = (
        np.concatenate([column[at] for column, at in zip(columns, known, strict=True)]) for columns in (recorded, fresh)
    )
    metrics = gap_metrics(sampled, learnt)
    if sampled.size:
        metrics[LOGPROB_GAP] = float(np.abs(sampled - learnt).mean())
    return metrics


def corrected(
    experience: Experience, correction: RolloutCorrection, metrics: dict[str, float]
) -> tuple[Experience, list[np.ndarray] | None]:
    """Rollout correction: importance weights as the column `rollout_is_weights`, and which tokens rejection kept.

    A rejected token is left out of the policy's loss. Rewards, advantages and the critic are those of the rollouts as
    they were.
    """
    if correction.bypass_mode or not (correction.rollout_is or correction.rollout_rs):
        return experience, None
    weights, mask, found = compute_rollout_correction(
        old_log_prob=experience.matrix_RT("old_logprobs"),
        rollout_log_prob=experience.matrix_RT("rollout_logprobs"),
        response_mask=experience.mask_RT,
        rollout_is=correction.rollout_is,
        rollout_is_threshold=correction.rollout_is_threshold,
        rollout_is_batch_normalize=correction.rollout_is_batch_normalize,
        rollout_rs=correction.rollout_rs,
        rollout_rs_threshold=correction.rollout_rs_threshold,
    )
    metrics |= found
    if weights is not None:
        experience = experience.with_columns(rollout_is_weights=experience.columns_of(weights))
    return experience, [column > 0 for column in experience.columns_of(mask)]
