"""How far the policy is from the reference, and how much that costs: KL estimators, KL in the reward, controllers.

Source: http://joschu.net/blog/kl-approx.html for the estimators, arXiv 1909.08593 for the adaptive coefficient, names
and bounds from verl. Called by `objectives` (KL loss) and by the training loop (KL in the reward).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from agentlightning.types import ConfigError

from .known_gradient import with_gradient


def _k1(log_prob: torch.Tensor, ref_log_prob: torch.Tensor) -> torch.Tensor:
    return log_prob - ref_log_prob


def _abs(log_prob: torch.Tensor, ref_log_prob: torch.Tensor) -> torch.Tensor:
    return (log_prob - ref_log_prob).abs()


def _k2(log_prob: torch.Tensor, ref_log_prob: torch.Tensor) -> torch.Tensor:
    return 0.5 * (log_prob - ref_log_prob).square()


def _k3(log_prob: torch.Tensor, ref_log_prob: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        other_way = (ref_log_prob - log_prob).clamp_(-20.0, 20.0)
        less_one = other_way.expm1()
        value = torch.sub(less_one, other_way, out=other_way)
        if not log_prob.requires_grad:
            return value.clamp_(max=10.0)
        # The inner bound is only reached where the outer one is passed: one of them stops the gradient.
        slope = less_one.neg_().mul_(value <= 10.0)
        value.clamp_(max=10.0)
    return with_gradient(log_prob, value, slope)


_ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "kl": _k1,
    "k1": _k1,
    "abs": _abs,
    "mse": _k2,
    "k2": _k2,
    "low_var_kl": _k3,
    "k3": _k3,
}

KL_KINDS = (*_ESTIMATORS, *(f"{kind}+" for kind in _ESTIMATORS))
"""Names that `kl_penalty` knows."""


def kl_penalty(log_prob: torch.Tensor, ref_log_prob: torch.Tensor, kind: str) -> torch.Tensor:
    """An estimate of KL(policy, reference) at each token, from the sampled tokens alone. With d = log_prob - ref:

    - `kl`, `k1`: d. `abs`: |d|. `mse`, `k2`: d^2 / 2.
    - `low_var_kl`, `k3`: exp(-d) + d - 1, with d held within 20 and the result within 10 (no gradient beyond).
    - with a `+` behind it: the same value, but the gradient of `k2`, which is the gradient of the true KL in
      expectation; that of `k1` is 0 in expectation, that of `k3` the one of the reverse KL.

    Args:
        log_prob: Log-probs of the sampled tokens under the policy, any shape.
        ref_log_prob: The same under the reference.
        kind: One of `KL_KINDS`.

    Raises:
        NotImplementedError: another kind; `full` would need the whole distribution at each token.
    """
    if kind not in KL_KINDS:
        raise NotImplementedError(f"KL estimator {kind!r} is not one of {', '.join(KL_KINDS)}")
    estimate = _ESTIMATORS[kind.removesuffix("+")]
    if not kind.endswith("+"):
        return estimate(log_prob, ref_log_prob)
    with torch.no_grad():
        value = estimate(log_prob.detach(), ref_log_prob)
        slope_of_k2 = log_prob - ref_log_prob
    return with_gradient(log_prob, value, slope_of_k2)


def apply_kl_penalty(
    token_level_scores: torch.Tensor,
    old_log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    kind: str,
    coefficient: float,
) -> tuple[torch.Tensor, float]:
    """Rewards with the KL to the reference subtracted at each trained token (`algorithm.use_kl_in_reward`).

    Args:
        token_level_scores: (B, T) rewards before.
        old_log_probs: (B, T) log-probs under the policy that sampled.
        ref_log_probs: (B, T) log-probs under the reference.
        response_mask: (B, T) 1 at trained tokens; what the log-probs hold elsewhere is ignored, NaN included.
        kind: See `kl_penalty`.
        coefficient: Weight of the KL, a controller's `value`.

    Returns:
        (B, T) rewards, and the KL now: the mean over rows of the row's mean over its trained tokens, where a row
        without a trained token counts as 0.
    """
    mask = response_mask.bool()
    with torch.no_grad():
        penalty = kl_penalty(old_log_probs, ref_log_probs, kind).masked_fill_(~mask, 0.0)
        of_row = penalty.sum(-1).double() / (mask.sum(-1) + 1e-8)
        current = float(of_row.mean()) if len(of_row) else 0.0
        return token_level_scores - penalty.mul_(coefficient), current


class KLController(Protocol):
    """The coefficient of the KL in the reward, from step to step."""

    value: float

    def update(self, current_kl: float, n_steps: int) -> None:
        """After a batch of `n_steps` rows with this KL."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON values for the checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises `ConfigError` if another kind of controller wrote the state."""
        ...


class FixedKLController:
    """A coefficient that stays (`algorithm.kl_ctrl.type=fixed`)."""

    def __init__(self, kl_coef: float):
        self.value = kl_coef

    def update(self, current_kl: float, n_steps: int) -> None:
        """Nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        """Only its type: the coefficient is the configuration's, also after it was changed for a resumed run."""
        return {"type": "fixed"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `KLController`."""
        _same_type(state, "fixed")


class AdaptiveKLController:
    """A coefficient that steers the KL towards a target (arXiv 1909.08593, section 2.2).

    Args:
        kl_coef: The coefficient at the start.
        target_kl: The KL to reach, in nats per token, > 0.
        horizon: Rows over which a KL far off moves the coefficient by about a fifth, > 0.

    Raises:
        ConfigError: `target_kl` or `horizon` is not positive.
    """

    def __init__(self, kl_coef: float, target_kl: float, horizon: float):
        for name, number in (("target_kl", target_kl), ("horizon", horizon)):
            if not number > 0:
                raise ConfigError(f"`algorithm.kl_ctrl.{name}` is {number}; it must be greater than 0")
        self.value = kl_coef
        self._target, self._horizon = target_kl, horizon

    def update(self, current_kl: float, n_steps: int) -> None:
        """Multiplies the coefficient by `1 + clip(current_kl / target_kl - 1, -0.2, 0.2) * n_steps / horizon`.

        A KL that is not a number leaves it as it is: the step that it belongs to is lost, the run is not.
        """
        if not math.isnan(current_kl):
            error = min(max(current_kl / self._target - 1, -0.2), 0.2)
            self.value *= 1 + error * n_steps / self._horizon

    def state_dict(self) -> dict[str, Any]:
        """The coefficient now."""
        return {"type": "adaptive", "value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `KLController`."""
        _same_type(state, "adaptive")
        self.value = float(state["value"])


def make_kl_controller(config: Mapping[str, Any]) -> KLController:
    """The controller of `algorithm.kl_ctrl`: `type` (fixed), `kl_coef` (0.001), `target_kl` (0.1), `horizon` (10000).

    Raises:
        ConfigError: unknown type, or numbers that the controller refuses.
    """
    kind, coefficient = config.get("type", "fixed"), float(config.get("kl_coef", 0.001))
    if kind == "fixed":
        return FixedKLController(coefficient)
    if kind == "adaptive":
        return AdaptiveKLController(coefficient, float(config.get("target_kl", 0.1)), config.get("horizon", 10_000))
    raise ConfigError(f"`algorithm.kl_ctrl.type` {kind!r} is not one of fixed, adaptive")


def _same_type(state: Mapping[str, Any], expected: str) -> None:
    if state.get("type") != expected:
        raise ConfigError(
            f"`algorithm.kl_ctrl.type` is {expected!r}, but the checkpoint's controller is {state.get('type')!r}; "
            "keep the type, or start a new run"
        )
