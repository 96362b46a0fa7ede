"""Layers of settings (base, preset, overrides) to one: what implies what, names with parameters, several policies.

Called by `compose`. A layer is a `Settings`: flat, by full name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.types import ConfigError

from .interpolation import nest
from .names import fields, mapping_fields
from .overrides import POLICIES, Settings, split_policy
from .rules import has_rule

_ACTOR = "actor_rollout_ref.actor"
_NAMED = {"agentlightning.credit": {"name": "identical"}, "agentlightning.curriculum": {}}
"""Keys whose value is a name with parameters, and what parameters alone add to."""
_LEADERS: Mapping[str, Sequence[str]] = {
    f"{_ACTOR}.clip_ratio": (f"{_ACTOR}.clip_ratio_low", f"{_ACTOR}.clip_ratio_high"),
    "agentlightning.seed": ("data.seed", "actor_rollout_ref.rollout.seed", f"{_ACTOR}.data_loader_seed"),
}
"""Keys that set others of the same layer: one clip ratio for both bounds, one seed for all."""
FOLLOWERS: Mapping[str, str] = {
    f"critic.{name}": f"{_ACTOR}.{name}"
    for name in ("ppo_mini_batch_size", "ppo_epochs", "loss_agg_mode", "loss_scale_factor")
}
"""Keys that are another's where nobody sets them, as in verl."""


def merge(layers: Sequence[Settings]) -> dict[str, Any]:
    """One layer: later ones go over earlier ones; keys that follow others are filled in."""
    settings = {key: value for layer in layers for key, value in _expand(layer.values).items()}
    for key, leader in FOLLOWERS.items():
        if leader in settings:
            settings.setdefault(key, settings[leader])
    return settings


def given_values(layers: Sequence[Settings]) -> dict[str, Any]:
    """What was set, by full name, before anything is filled in."""
    return {key: value for layer in layers for key, value in layer.values.items()}


def _expand(values: Mapping[str, Any]) -> dict[str, Any]:
    implied: dict[str, Any] = {}
    left_open: set[str] = set()
    for leader, names in _LEADERS.items():
        if leader in values:
            implied |= dict.fromkeys(names, values[leader])
        left_open |= {name for name in names if name in values and values[name] is None}
    return implied | {key: value for key, value in values.items() if key not in left_open}


def fold_mappings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keys below a field that holds a mapping as that mapping, but for those that have a rule of their own."""
    folded = dict(settings)
    for key in mapping_fields():
        below = {name: value for name, value in settings.items() if name.startswith(f"{key}.") and not has_rule(name)}
        if below:
            folded[key] = nest({name.removeprefix(f"{key}."): value for name, value in below.items()})
            for name in below:
                del folded[name]
    return folded


def is_below_mapping(key: str) -> bool:
    """Whether `key` is part of a field that holds a mapping."""
    return key not in fields() and any(key.startswith(f"{name}.") for name in mapping_fields()) and not has_rule(key)


def gather_named(layers: Sequence[Settings]) -> list[Settings]:
    """The layers with the parameters of a credit rule or curriculum put back under its key.

    A later layer that names a rule replaces an earlier one with its parameters; one that only gives parameters adds to
    it.
    """
    gathered = list(layers)
    for key, default in _NAMED.items():
        gathered = _gather(gathered, key, default)
    return gathered


def _gather(layers: Sequence[Settings], key: str, default: dict[str, Any]) -> list[Settings]:
    gathered: list[Settings] = []
    before = default
    for layer in layers:
        below = {
            name.removeprefix(f"{key}."): value for name, value in layer.values.items() if name.startswith(f"{key}.")
        }
        named = layer.values.get(key)
        if isinstance(named, str):
            before = {"name": named}
        elif "name" in below:
            before = {}
        if not below:
            gathered.append(layer)
            continue
        before = before | nest(below)
        values = {name: value for name, value in layer.values.items() if not name.startswith(f"{key}.")}
        gathered.append(Settings(values | {key: before}, {**layer.spelling, key: key}))
    return gathered


def split_policies(layers: Sequence[Settings]) -> tuple[list[Settings], dict[str, list[Settings]]]:
    """The common settings, and by policy what is its own; layer by layer.

    Raises:
        ConfigError: a policy is no mapping.
    """
    common: list[Settings] = []
    own: dict[str, list[Settings]] = {}
    for layer in layers:
        common.append(Settings({}, layer.spelling))
        for key, value in layer.values.items():
            if not key.startswith(f"{POLICIES}."):
                common[-1].values[key] = value
                continue
            name, below = split_policy(key)
            mine = own.setdefault(name, [])
            mine += [Settings() for _ in range(len(common) - len(mine))]
            if below:
                mine[-1].values[below] = value
            elif value:
                raise ConfigError(f"`{key}` is {value!r}; a policy is a mapping of its own settings, or empty")
    return common, own
