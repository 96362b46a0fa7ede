"""The credit rule in a configuration: whether it can be. Called by `checks` and `VERL`."""

from __future__ import annotations

from typing import Any, cast

from agentlightning.credit import CreditSpec, get_credit, is_relative
from agentlightning.types import ConfigError


def credit_problem(credit: CreditSpec, rollouts_per_task: int) -> str | None:
    """What is wrong with a credit rule, if anything."""
    try:
        rule = get_credit(credit)
    except ConfigError as error:
        return str(error)
    if is_relative(rule) and rollouts_per_task < 2:
        name = cast("dict[str, Any]", credit).get("name") if isinstance(credit, dict) else credit
        return (
            f"`credit` {name!r} compares the rollouts of one task, and `actor_rollout_ref.rollout.n` is "
            f"{rollouts_per_task}; make it 2 or more"
        )
    return None
