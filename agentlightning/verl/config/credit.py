"""The credit rule in a configuration: whether it can be. Called by `checks` and `VERL`."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from agentlightning.credit import CreditRule, CreditSpec, discounted, get_credit, is_relative, per_turn
from agentlightning.types import ConfigError

from .schema import VerlConfig

OF_RETURNS = ("gae", "reinforce_plus_plus", "remax", "optimal_token_baseline", "tir_optimal_token_baseline")
"""Estimators that sum up the rewards that come after a token."""


def credit_problem(credit: CreditSpec, config: VerlConfig) -> str | None:
    """What is wrong with a credit rule, if anything."""
    try:
        rule = get_credit(credit)
    except ConfigError as error:
        return str(error)
    name = cast("dict[str, Any]", credit).get("name") if isinstance(credit, dict) else credit
    estimator, n = config.algorithm.adv_estimator, config.actor_rollout_ref.rollout.n
    sums_up = estimator in OF_RETURNS and not config.is_self_play()
    if is_relative(rule) and n < 2:
        return (
            f"`credit` {name!r} compares the rollouts of one task, and `actor_rollout_ref.rollout.n` is {n}; make it 2 "
            "or more"
        )
    if is_relative(rule) and sums_up:
        return (
            f"`credit` {name!r} gives advantages, so that `algorithm.adv_estimator` {estimator!r} would do nothing; "
            "set it to 'grpo', or choose another rule"
        )
    if is_relative(rule) and config.algorithm.use_kl_in_reward:
        return (
            f"`credit` {name!r} gives advantages, which `algorithm.use_kl_in_reward` takes nothing off; use "
            "`actor_rollout_ref.actor.use_kl_loss`"
        )
    if _is_return(rule) and sums_up:
        return (
            f"`credit` {name!r} gives a turn what was earned after it, and `algorithm.adv_estimator` {estimator!r} "
            "sums that up itself; set `credit` to 'per_turn' or 'identical' and `algorithm.gamma`, or choose an "
            "estimator such as 'grpo'"
        )
    return None


def _is_return(rule: CreditRule) -> bool:
    """Whether a turn's number holds what later turns earned."""
    parameters: dict[str, Any] = {}
    while isinstance(rule, partial):
        bound = cast("partial[Any]", rule)
        rule, parameters = bound.func, {**bound.keywords, **parameters}
    return rule is discounted or (rule is per_turn and parameters.get("gamma", 0.0) > 0)
