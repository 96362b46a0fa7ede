"""The credit rule in a configuration: its parameters as keys below its own. Called by `compose` and `checks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from agentlightning.credit import CreditSpec, get_credit, is_relative
from agentlightning.types import ConfigError

from .interpolation import nest
from .overrides import Settings

KEY = "agentlightning.credit"


def gather_credit(layers: Sequence[Settings]) -> list[Settings]:
    """The layers with `agentlightning.credit.<parameter>` put back under `agentlightning.credit`.

    A later layer that names a rule replaces an earlier one with its parameters; one that only gives parameters adds to
    it.
    """
    gathered: list[Settings] = []
    before: dict[str, Any] = {"name": "identical"}
    for layer in layers:
        below = {key.removeprefix(f"{KEY}."): value for key, value in layer.values.items() if key.startswith(f"{KEY}.")}
        named = layer.values.get(KEY)
        if isinstance(named, str):
            before = {"name": named}
        elif "name" in below:
            before = {}
        if not below:
            gathered.append(layer)
            continue
        before = before | nest(below)
        values = {key: value for key, value in layer.values.items() if not key.startswith(f"{KEY}.")}
        gathered.append(Settings(values | {KEY: before}, {**layer.spelling, KEY: KEY}))
    return gathered


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
