"""Advantage estimators by name, one file each. Formulas: `docs/algorithms.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from agentlightning.types import ConfigError

from .grpo import grpo

Estimator = Callable[..., tuple[torch.Tensor, torch.Tensor]]
_ESTIMATORS: dict[str, Estimator] = {"grpo": grpo}


def register_adv_est(name: str) -> Callable[[Estimator], Estimator]:
    """Decorator that adds an estimator under `name`.

    The training loop calls it with one column for each rollout: (B, 1) scores and a mask of ones.

    Raises:
        ValueError: another function holds the name already.
    """

    def register(function: Estimator) -> Estimator:
        if _ESTIMATORS.get(name, function) is not function:
            raise ValueError(f"an advantage estimator named {name!r} exists already; choose another name")
        _ESTIMATORS[name] = function
        return function

    return register


def advantage_estimators() -> tuple[str, ...]:
    """The registered names."""
    return tuple(_ESTIMATORS)


def compute_advantages(
    name: str,
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns of padded trajectories.

    Args:
        name: A registered estimator.
        token_level_rewards: (B, T) rewards; an outcome reward stands at one position of its row.
        response_mask: (B, T) 1 where the policy sampled the token.
        index: (B,) group label of each row, any hashable.
        config: Leaf names of `algorithm.*`.

    Returns:
        advantages and returns, both (B, T).

    Raises:
        ConfigError: no estimator has this name.
    """
    if name not in _ESTIMATORS:
        raise ConfigError(f"`algorithm.adv_estimator` {name!r} is not one of {', '.join(advantage_estimators())}")
    with torch.no_grad():
        return _ESTIMATORS[name](
            token_level_rewards=token_level_rewards,
            response_mask=response_mask,
            index=index,
            config=dict(config or {}),
        )
