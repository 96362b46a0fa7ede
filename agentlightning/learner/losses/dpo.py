"""Online DPO, the loss of SPIN (arXiv 2401.01335; DPO: arXiv 2305.18290, IPO: arXiv 2310.12036)."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from agentlightning.types import ConfigError

DPO_LOSSES = ("sigmoid", "ipo")


def compute_online_dpo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    reference_free: bool = False,
) -> torch.Tensor:
    """The mean over P pairs, from sums of log-probs over whole answers.

    With z = (policy chosen - policy rejected) - (reference chosen - reference rejected):

    - `sigmoid`: `-(1 - s) log sigmoid(beta z) - s log sigmoid(-beta z)`, s the label smoothing;
    - `ipo`: `(z - 1 / (2 beta))^2`.

    Args:
        policy_chosen_logps, policy_rejected_logps: (P,) under the policy in training.
        reference_chosen_logps, reference_rejected_logps: (P,) under the reference.
        beta: How strongly the policy is held to the reference; above 0.
        label_smoothing: How often a preference is thought to be wrong, 0 to 0.5; only with `sigmoid`.
        loss_type: One of `DPO_LOSSES`.
        reference_free: Leave the reference out.

    Raises:
        ConfigError: unknown `loss_type`, or a number out of its range.
    """
    _check(beta, label_smoothing, loss_type)
    logits = policy_chosen_logps - policy_rejected_logps
    if not reference_free:
        logits = logits - (reference_chosen_logps - reference_rejected_logps)
    if loss_type == "ipo":
        losses = (logits - 1.0 / (2.0 * beta)).square()
    else:
        losses = -(1.0 - label_smoothing) * logsigmoid(beta * logits) - label_smoothing * logsigmoid(-beta * logits)
    return losses.mean()


def _check(beta: float, label_smoothing: float, loss_type: str) -> None:
    if loss_type not in DPO_LOSSES:
        raise ConfigError(f"`dpo_loss_type` {loss_type!r} is not one of {', '.join(DPO_LOSSES)}")
    if beta <= 0:
        raise ConfigError(f"`dpo_beta` is {beta}; it must be above 0, 0.1 is usual")
    if not 0.0 <= label_smoothing <= 0.5:
        raise ConfigError(f"`dpo_label_smoothing` is {label_smoothing}; it must be between 0 and 0.5")
    if label_smoothing and loss_type != "sigmoid":
        raise ConfigError(f"`dpo_label_smoothing` needs `dpo_loss_type` 'sigmoid', not {loss_type!r}; set it to 0")
