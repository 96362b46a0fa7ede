"""Advantage estimators by name, one file a family. Formulas: `docs/algorithms.md`.

Called by `verl/`: `compute_advantages` for the numbers, `requirements` for the columns that an estimator needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentlightning.types import ConfigError

from ..settings import Config, Settings, entries
from .gae import gae
from .gdpo import gdpo
from .gpg import gpg
from .grpo import grpo, grpo_vectorized
from .opo import opo
from .passk import grpo_passk
from .reinforce import reinforce_plus_plus, reinforce_plus_plus_baseline, remax
from .resample import pf_ppo_rows, pf_ppo_weights
from .rloo import rloo, rloo_vectorized
from .token_baseline import optimal_token_baseline, tir_optimal_token_baseline

__all__ = [
    "Estimator",
    "EstimatorNeeds",
    "advantage_estimators",
    "compute_advantages",
    "pf_ppo_rows",
    "pf_ppo_weights",
    "register_adv_est",
    "requirements",
]

Estimator = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""Takes columns by keyword, those that its signature names; returns advantages and returns, both (B, T)."""

MEANING = {
    "index": "the group label of each row, (B,): rows that answer the same prompt share one",
    "values": "the value model's estimates, (B, T): train a critic (`critic.enable=true`)",
    "reward_baselines": "the score of the greedy answer to each row's prompt, (B,)",
    "old_log_probs": "the log-probs of the sampled tokens, (B, T)",
    "sum_pi_squared": "the sum of squared probabilities at each token, (B, T): set "
    "`actor_rollout_ref.actor.calculate_sum_pi_squared=true`",
}


@dataclass(frozen=True, slots=True)
class EstimatorNeeds:
    """What an estimator must be given beside rewards and mask, and what it makes of them."""

    index: bool = False
    values: bool = False
    reward_baselines: bool = False
    old_log_probs: bool = False
    sum_pi_squared: bool = False
    components: bool = False
    """Whether it reads the components of the reward, by the names in `algorithm.gdpo_reward_keys`."""
    group_relative: bool = False
    """Whether it compares the rows of a group, so that several samples of a prompt are needed for a signal."""
    outcome: bool = False
    """Whether it reads only the sum of a row's rewards, and gives all its tokens the same advantage."""
    whitens: bool = False
    """Whether it divides by the deviation over all trained tokens, of which there must be two then."""


@dataclass(frozen=True, slots=True)
class _Entry:
    function: Estimator
    needs: EstimatorNeeds
    ours: bool = True
    """Whether it comes with the package: then `**kwargs` stands for the components alone."""


def _entry(function: Estimator, ours: bool = True, **facts: bool) -> _Entry:
    """Columns that the signature names without a default are needed; `facts` says the rest."""
    parameters = inspect.signature(function).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty} & set(MEANING)
    return _Entry(function, EstimatorNeeds(**dict.fromkeys(required, True), **facts), ours)


_ESTIMATORS: dict[str, _Entry] = {
    "gae": _entry(gae, whitens=True),
    "grpo": _entry(grpo, group_relative=True, outcome=True),
    "grpo_vectorized": _entry(grpo_vectorized, group_relative=True, outcome=True),
    "grpo_passk": _entry(grpo_passk, group_relative=True, outcome=True),
    "gdpo": _entry(gdpo, group_relative=True, outcome=True, components=True, whitens=True),
    "rloo": _entry(rloo, group_relative=True, outcome=True),
    "rloo_vectorized": _entry(rloo_vectorized, group_relative=True, outcome=True),
    "opo": _entry(opo, group_relative=True, outcome=True),
    "gpg": _entry(gpg, group_relative=True, outcome=True),
    "reinforce_plus_plus": _entry(reinforce_plus_plus, whitens=True),
    "reinforce_plus_plus_baseline": _entry(
        reinforce_plus_plus_baseline, group_relative=True, outcome=True, whitens=True
    ),
    "remax": _entry(remax),
    "optimal_token_baseline": _entry(optimal_token_baseline, group_relative=True),
    "tir_optimal_token_baseline": _entry(tir_optimal_token_baseline, group_relative=True),
}


def register_adv_est(name: str) -> Callable[[Estimator], Estimator]:
    """Decorator that adds an estimator under `name`.

    It is called with the keywords `token_level_rewards` and `response_mask`, (B, T), `index`, (B,) group labels, and
    `config`, the leaf names of `algorithm.*` as items and attributes; beside them with the columns that are at hand,
    see `compute_advantages`. Of all these it gets those that its signature names, or all with `**kwargs`; a column
    that it names without a default it needs. It returns advantages and returns, both (B, T). The training loop calls
    it with one row for each rollout, its trained tokens in order.

    Raises:
        ValueError: another function holds the name already.
    """

    def register(function: Estimator) -> Estimator:
        if name in _ESTIMATORS and _ESTIMATORS[name].function is not function:
            raise ValueError(f"an advantage estimator named {name!r} exists already; choose another name")
        _ESTIMATORS.setdefault(name, _entry(function, ours=False))
        return function

    return register


def advantage_estimators() -> tuple[str, ...]:
    """The registered names."""
    return tuple(_ESTIMATORS)


def requirements(name: str) -> EstimatorNeeds:
    """What the estimator must be given.

    Raises:
        ConfigError: no estimator has this name.
    """
    return _get(name).needs


def _get(name: str) -> _Entry:
    if name not in _ESTIMATORS:
        raise ConfigError(f"`algorithm.adv_estimator` {name!r} is not one of {', '.join(advantage_estimators())}")
    return _ESTIMATORS[name]


def compute_advantages(
    name: str,
    *,
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable] | np.ndarray | torch.Tensor | None = None,
    values: torch.Tensor | None = None,
    reward_baselines: torch.Tensor | None = None,
    old_log_probs: torch.Tensor | None = None,
    sum_pi_squared: torch.Tensor | None = None,
    rollout_is_weights: torch.Tensor | None = None,
    config: Config | None = None,
    **components: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns of padded trajectories, without gradient. Half precision is computed in float32.

    Args:
        name: A registered estimator.
        token_level_rewards: (B, T) rewards; an outcome reward stands at one position of its row. Outcome estimators
            read the sum over all positions, also those outside the mask.
        response_mask: (B, T) 1 where the policy sampled the token, 0 at padding and at what tools answered.
        index: (B,) group label of each row, any hashable; the rows of a group need not be neighbours.
        values: (B, T) estimates of the value model.
        reward_baselines: (B,) score of the greedy answer to the row's prompt.
        old_log_probs: (B, T) log-probs of the sampled tokens.
        sum_pi_squared: (B, T) sum of the squared probabilities of the whole vocabulary at each token.
        rollout_is_weights: (B, T) importance weights of the sampler.
        config: Leaf names of `algorithm.*`, and `epsilon` and `handle_zero_tail`, which verl has as arguments; as a
            mapping, or as an object with attributes.
        components: Parts of the reward by name, (B,) or (B, T), for `gdpo`; others leave them alone.

    Returns:
        advantages and returns, both (B, T) in the rewards' type; from an outcome estimator the same tensor twice.

    Raises:
        ConfigError: no estimator has this name.
        ValueError: the estimator needs a column that is not there, or shapes don't fit.
    """
    entry = _get(name)
    columns = {
        "index": index,
        "values": values,
        "reward_baselines": reward_baselines,
        "old_log_probs": old_log_probs,
        "sum_pi_squared": sum_pi_squared,
        "rollout_is_weights": rollout_is_weights,
    }
    columns = {column: value for column, value in columns.items() if value is not None}
    _check(name, entry.needs, token_level_rewards, {"response_mask": response_mask, **columns})
    # In half precision scores that differ would be taken for ties, and sums would lose what they add up.
    dtype = token_level_rewards.dtype if token_level_rewards.is_floating_point() else torch.float32
    rewards = token_level_rewards.to(torch.promote_types(dtype, torch.float32))
    arguments = {
        "token_level_rewards": rewards,
        "response_mask": response_mask,
        "config": Settings(entries(config)),
        **columns,
    }
    with torch.no_grad():
        advantages, returns = entry.function(**_accepted(entry, arguments, components))
    if advantages.shape != token_level_rewards.shape or returns.shape != token_level_rewards.shape:
        raise ValueError(
            f"advantage estimator `{name}` returned shapes {tuple(advantages.shape)} and {tuple(returns.shape)}; "
            f"both must be {tuple(token_level_rewards.shape)}, that of the rewards"
        )
    if advantages is returns:
        advantages = returns = advantages.to(dtype)
    return advantages.to(dtype), returns.to(dtype)


def _accepted(entry: _Entry, arguments: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the signature names; with `**kwargs` all, but `gdpo`'s are only for the components."""
    parameters = inspect.signature(entry.function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {
        **{name: value for name, value in components.items() if takes_all or name in parameters},
        **{name: value for name, value in arguments.items() if (takes_all and not entry.ours) or name in parameters},
    }


def _check(name: str, needs: EstimatorNeeds, rewards: torch.Tensor, columns: Mapping[str, Any]) -> None:
    for column, meaning in MEANING.items():
        if getattr(needs, column) and column not in columns:
            raise ValueError(f"advantage estimator `{name}` needs `{column}`: {meaning}")
    if rewards.dim() != 2:
        raise ValueError(f"`token_level_rewards` has shape {tuple(rewards.shape)}; it must be (B, T)")
    for column, value in columns.items():
        shape = (len(value),) if column == "index" else tuple(value.shape)
        expected = tuple(rewards.shape[:1] if column in ("index", "reward_baselines") else rewards.shape)
        if shape != expected:
            raise ValueError(f"`{column}` has shape {shape}, but the rewards' rows and tokens ask for {expected}")
