"""Policy losses by name, one file each: per-token functions that the packed step and the padded helper share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from agentlightning.types import ConfigError

from .aggregation import agg_loss, token_weights
from .vanilla import vanilla

TokenLoss = Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""(log_prob, old_log_prob, advantages, config) -> (loss, metrics), every tensor one number per token."""

_LOSSES: dict[str, TokenLoss] = {"vanilla": vanilla}
_PROPORTIONAL = frozenset({"vanilla"})

__all__ = [
    "TokenLoss",
    "agg_loss",
    "compute_policy_loss",
    "get_policy_loss",
    "policy_losses",
    "register_policy_loss",
    "token_weights",
    "vanishes_without_advantage",
]


def vanishes_without_advantage(mode: str) -> bool:
    """Whether tokens with advantage 0 have no gradient under this loss, so that they need not be computed."""
    return mode in _PROPORTIONAL


def register_policy_loss(name: str) -> Callable[[TokenLoss], TokenLoss]:
    """Decorator that adds a per-token loss under `name`.

    Raises:
        ValueError: another function holds the name already.
    """

    def register(function: TokenLoss) -> TokenLoss:
        if _LOSSES.get(name, function) is not function:
            raise ValueError(f"a policy loss named {name!r} exists already; choose another name")
        _LOSSES[name] = function
        return function

    return register


def policy_losses() -> tuple[str, ...]:
    """The registered names."""
    return tuple(_LOSSES)


def get_policy_loss(mode: str) -> TokenLoss:
    """The per-token loss of this name.

    Raises:
        ConfigError: there is none.
    """
    if mode not in _LOSSES:
        raise ConfigError(f"`policy_loss.loss_mode` {mode!r} is not one of {', '.join(policy_losses())}")
    return _LOSSES[mode]


def compute_policy_loss(
    mode: str,
    *,
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Mapping[str, Any] | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of padded (B, T) tensors, for anybody who wants to check numbers.

    Args:
        mode: A registered loss.
        old_log_prob: (B, T) log-probs of the behaviour policy.
        log_prob: (B, T) log-probs of the policy in training.
        advantages: (B, T).
        response_mask: (B, T) 1 where the token is trained.
        loss_agg_mode: How tokens become one number, see `agg_loss`.
        config: Leaf names of `actor.*`, and `global_batch_info`, the keywords of `agg_loss`.

    Returns:
        The loss, a scalar tensor, and metrics averaged over the trained tokens.
    """
    settings = dict(config or {})
    batch_info = settings.pop("global_batch_info", {})
    losses, per_token = get_policy_loss(mode)(log_prob, old_log_prob, advantages, settings)
    mask = response_mask.to(losses.dtype)
    count = mask.sum().clamp(min=1)
    metrics = {name: float((torch.where(mask > 0, value, 0.0)).sum() / count) for name, value in per_token.items()}
    return agg_loss(losses, response_mask, loss_agg_mode, **batch_info), metrics
