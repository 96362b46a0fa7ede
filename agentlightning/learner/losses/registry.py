"""Policy losses by name: the built-in ones, and those that a user registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from agentlightning.types import ConfigError

from ..settings import Config
from .base import PolicyLoss
from .bypass import bypass
from .cispo import cispo
from .clip_cov import clip_cov
from .dppo import dppo_kl, dppo_tv
from .dro import dro
from .geo_mean import geo_mean
from .gpg import gpg
from .gspo import gspo
from .kl_cov import kl_cov
from .padded import evaluate_padded
from .reinforce import reinforce
from .sapo import sapo
from .settings import Settings
from .vanilla import vanilla


class PaddedLoss(Protocol):
    """A loss of padded (B, T) tensors in verl's signature; `config` has its keys as attributes too."""

    def __call__(
        self,
        *,
        old_log_prob: torch.Tensor,
        log_prob: torch.Tensor,
        advantages: torch.Tensor,
        response_mask: torch.Tensor,
        loss_agg_mode: str,
        config: Settings,
        rollout_is_weights: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Mapping[str, Any]]: ...


_LOSSES: dict[str, PolicyLoss | PaddedLoss] = {
    "vanilla": vanilla,
    "gspo": gspo,
    "sapo": sapo,
    "gpg": gpg,
    "cispo": cispo,
    "dppo_tv": dppo_tv,
    "dppo_kl": dppo_kl,
    "dro": dro,
    "clip_cov": clip_cov,
    "kl_cov": kl_cov,
    "geo_mean": geo_mean,
    "reinforce": reinforce,
    "bypass_mode": bypass,
}


def register_policy_loss(name: str) -> Callable[[PaddedLoss], PaddedLoss]:
    """Decorator that adds a loss under `name`, to be selected by `policy_loss.loss_mode`.

    The function is called by keyword with `old_log_prob`, `log_prob`, `advantages`, `response_mask` (B, T),
    `loss_agg_mode`, `config`, `rollout_is_weights` ((B, T) or `None`) and returns the loss and a mapping of metrics.
    In training it sees a whole mini-batch, one row a rollout that holds its trained tokens in order.

    Raises:
        ValueError: another function holds the name already.
    """

    def register(function: PaddedLoss) -> PaddedLoss:
        if _LOSSES.get(name, function) is not function:
            raise ValueError(f"a policy loss named {name!r} exists already; choose another name")
        _LOSSES[name] = function
        return function

    return register


def policy_losses() -> tuple[str, ...]:
    """The registered names."""
    return tuple(_LOSSES)


def get_policy_loss(mode: str) -> PolicyLoss | PaddedLoss:
    """The loss of this name.

    Raises:
        ConfigError: there is none.
    """
    if mode not in _LOSSES:
        raise ConfigError(f"`policy_loss.loss_mode` {mode!r} is not one of {', '.join(policy_losses())}")
    return _LOSSES[mode]


def vanishes_without_advantage(mode: str) -> bool:
    """Whether tokens with advantage 0 have no gradient under this loss, so that they need not be computed."""
    loss = get_policy_loss(mode)
    return isinstance(loss, PolicyLoss) and loss.proportional


def agg_mode_of(mode: str, loss_agg_mode: str) -> str:
    """The aggregation that training must use: `loss_agg_mode`, unless the loss forces another one."""
    loss = get_policy_loss(mode)
    forced = isinstance(loss, PolicyLoss) and loss.aggregation is not None
    return "seq-mean-token-mean" if forced else loss_agg_mode


def compute_policy_loss(
    mode: str,
    *,
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Config | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss of padded (B, T) tensors, each row a sequence; the packed training step computes the same.

    Args:
        mode: One of `policy_losses()`.
        old_log_prob: (B, T) log-probs of the policy that made the ratio's denominator; for `bypass_mode` those that
            the sampler recorded.
        log_prob: (B, T) log-probs of the policy in training; the only tensor that gets a gradient.
        advantages: (B, T).
        response_mask: (B, T) 1 where the token is trained; what the tensors hold elsewhere does not matter.
        loss_agg_mode: How tokens become one number, see `agg_loss`. `sapo` always takes `seq-mean-token-mean`,
            `geo_mean` the plain mean over all rows.
        config: Leaf names of `actor.*`, nested `policy_loss`, `global_batch_info` (keywords of `agg_loss`) and
            `rollout_correction` (for `bypass_mode`), each a mapping or an object with attributes. Missing or `None`:
            verl's defaults. `clip_cov` chooses tokens with
            `seed` if there is one, else with torch's CPU generator.
        rollout_is_weights: (B, T) importance weights of the sampler, multiplied into the losses.

    Returns:
        The loss, a scalar tensor, and metrics averaged over the trained tokens: `actor/ppo_kl`, `actor/pg_clipfrac`,
        `actor/pg_clipfrac_lower` where the loss has them.

    Raises:
        ConfigError: unknown mode or aggregation, or a value that the loss refuses.
        ValueError: tensors of different shapes.
    """
    tensors = {"old_log_prob": old_log_prob, "advantages": advantages, "response_mask": response_mask}
    if rollout_is_weights is not None:
        tensors["rollout_is_weights"] = rollout_is_weights
    for name, tensor in tensors.items():
        if tensor.shape != log_prob.shape:
            raise ValueError(f"`{name}` is {tuple(tensor.shape)}, `log_prob` {tuple(log_prob.shape)}; both are (B, T)")
    loss, settings = get_policy_loss(mode), Settings.of(config)
    arguments: dict[str, Any] = {
        "old_log_prob": old_log_prob,
        "log_prob": log_prob,
        "advantages": advantages,
        "response_mask": response_mask,
        "loss_agg_mode": loss_agg_mode,
        "config": settings,
        "rollout_is_weights": rollout_is_weights,
    }
    if isinstance(loss, PolicyLoss):
        return evaluate_padded(loss, **arguments)
    value, metrics = loss(**arguments)
    return value, dict(metrics)
