"""GDPO: several rewards, each normalised within the group on its own before they are summed (arXiv 2601.05242)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from agentlightning.types import ConfigError

from .groups import group_ids
from .grpo import group_relative
from .masked import lengths, over_tokens, scores, whiten_scalars


def gdpo(
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable],
    config: Mapping[str, Any],
    **components: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of each component's `grpo` advantages, whitened over the trained tokens.

    Reads `gdpo_reward_keys`, `gdpo_reward_weights` (1 each), `norm_adv_by_std_in_grpo` (True), `epsilon` (1e-6).
    Without any `config` the rewards themselves are the only component, as in verl.

    Args:
        components: By the names in `gdpo_reward_keys`, (B,) scores or (B, T) rewards.

    Raises:
        ConfigError: no keys, or not one weight a key.
        ValueError: a component is missing or has another shape; fewer than two trained tokens.
    """
    ids_B = group_ids(index)
    total = torch.zeros(len(ids_B), dtype=torch.float64)
    parts = _components(components, config, token_level_rewards) if config else [(token_level_rewards, 1.0)]
    for rewards, weight in parts:
        scores_B = scores(rewards) if rewards.dim() == 2 else rewards.cpu().double()
        total += weight * group_relative(scores_B, ids_B, rewards.dtype, config)
    whitened = whiten_scalars(total, lengths(response_mask))
    advantages = over_tokens(whitened, response_mask, token_level_rewards)
    return advantages, advantages


def _components(
    components: Mapping[str, Any], config: Mapping[str, Any], like: torch.Tensor
) -> list[tuple[torch.Tensor, float]]:
    keys = list(config.get("gdpo_reward_keys") or ())
    weights = config.get("gdpo_reward_weights")
    weights = [1.0] * len(keys) if weights is None else [float(weight) for weight in weights]
    if not keys:
        raise ConfigError("`gdpo` needs `algorithm.gdpo_reward_keys`, the names of the reward's components; set it")
    if len(weights) != len(keys):
        raise ConfigError(
            f"`algorithm.gdpo_reward_weights` has {len(weights)} numbers for {len(keys)} names in "
            "`algorithm.gdpo_reward_keys`; give one each"
        )
    return [(_component(key, components, like), weight) for key, weight in zip(keys, weights, strict=True)]


def _component(key: str, components: Mapping[str, Any], like: torch.Tensor) -> torch.Tensor:
    given = components.get(key)
    if given is None:
        raise ValueError(
            f"`gdpo` needs the reward component `{key}` (named in `algorithm.gdpo_reward_keys`); return it from the "
            f"reward function, or pass `{key}=`. Given: {', '.join(sorted(components)) or 'none'}"
        )
    # Labels of a reward function come as numpy arrays of objects, too.
    rewards = given if isinstance(given, torch.Tensor) else torch.from_numpy(np.asarray(given, np.float64))
    if tuple(rewards.shape) not in (tuple(like.shape), tuple(like.shape[:1])):
        raise ValueError(
            f"reward component `{key}` has shape {tuple(rewards.shape)}; "
            f"it must be {tuple(like.shape[:1])} or {tuple(like.shape)}"
        )
    dtype = rewards.dtype if rewards.is_floating_point() else like.dtype
    return rewards.to(torch.promote_types(dtype, torch.float32))
