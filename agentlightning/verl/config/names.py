"""The names and defaults of verl's configuration (verl 0.9.1, `ppo_trainer`), and the nearest name to a wrong one.

`verl_defaults.json` holds them flat, interpolations unresolved. Called by `compose`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from .schema import VerlConfig

FREE_KEYS = (
    "actor_rollout_ref.rollout.mtp",
    "actor_rollout_ref.rollout.qat",
    "reward_model.rollout.engine_kwargs",
    "ray_kwargs.ray_init",
    "actor_rollout_ref.actor.megatron",
    "actor_rollout_ref.ref.megatron",
    "critic.megatron",
    "hydra",
)
"""Keys under which verl or Hydra takes any names, besides those whose default is `{}` and fields that are mappings."""

ADDED_KEYS = (
    "algorithm.gdpo_reward_keys",
    "algorithm.gdpo_reward_weights",
    "algorithm.dpo_beta",
    "algorithm.dpo_loss_type",
    "algorithm.dpo_label_smoothing",
    "algorithm.sppo_eta",
    "actor_rollout_ref.actor.sppo_eta",
    "trainer.ref_update_freq",
    "reward.reward_kwargs.overlong_buffer_cfg.enable",
    "reward.reward_kwargs.overlong_buffer_cfg.len",
    "reward.reward_kwargs.overlong_buffer_cfg.penalty_factor",
    "reward.reward_kwargs.overlong_buffer_cfg.log",
    "reward.reward_kwargs.max_resp_len",
    "reward.custom_reward_function.reward_kwargs",
    "data.sampler.class_path",
    "data.sampler.class_name",
    "agentlightning.port",
    "agentlightning.trace_aggregator.level",
    "agentlightning.trace_aggregator.trajectory_max_prompt_length",
    "agentlightning.trace_aggregator.trajectory_max_response_length",
    "agentlightning.trace_aggregator.debug",
    "agentlightning.trace_aggregator.mismatch_log_dir",
)
"""Keys that verl, one of its recipes or an older verl reads though they are not among the defaults, and those that
Agent-Lightning 0.3 added."""


@cache
def verl_defaults() -> Mapping[str, Any]:
    """verl's defaults by full name; some are interpolations (`${...}`)."""
    return json.loads(resources.files("agentlightning.verl.config").joinpath("verl_defaults.json").read_text("utf-8"))


@cache
def fields() -> Mapping[str, Any]:
    """The schema's leaf fields by full name: pydantic's `FieldInfo` of each."""
    return dict(_walk(VerlConfig, ""))


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _walk(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info


@cache
def mapping_fields() -> frozenset[str]:
    """The fields that hold a mapping of any names, which may be given as keys below theirs."""
    return frozenset(key for key, info in fields().items() if _holds_dict(info.annotation))


def _holds_dict(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_holds_dict, get_args(annotation)))


@cache
def sections() -> frozenset[str]:
    """All names that have keys below them."""
    parts = [name.split(".") for name in (*verl_defaults(), *fields())]
    return frozenset(".".join(path[:i]) for path in parts for i in range(1, len(path)))


def is_known(key: str) -> bool:
    """Whether verl or this package has a key of this name."""
    if key in fields() or key in verl_defaults() or key in ADDED_KEYS:
        return True
    return any(key.rsplit(".", n)[0] in _free() for n in range(key.count(".") + 1))


@cache
def _free() -> frozenset[str]:
    return mapping_fields() | {*FREE_KEYS, *(key for key, value in verl_defaults().items() if value == {})}


def nearest(key: str) -> list[str]:
    """Up to three known names that `key` may have meant, the likeliest first.

    The same name in another place comes before similar spelling.
    """
    names = [*fields(), *(name for name in (*verl_defaults(), *ADDED_KEYS) if name not in fields())]
    leaf = key.rsplit(".", 1)[-1]
    by_leaf: dict[str, list[str]] = {}
    for name in names:
        by_leaf.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    moved = [name for name in names if name.endswith(f".{key}")] or by_leaf.get(leaf, [])
    alike = set(difflib.get_close_matches(leaf, by_leaf, n=len(by_leaf), cutoff=0.6))
    near = [name for name in names if name.rsplit(".", 1)[-1] in alike]  # a long section alone makes no likeness
    spelt: list[str] = difflib.get_close_matches(key, near, n=3, cutoff=0.75)
    renamed = [name for like in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.75) for name in by_leaf[like]]
    found: list[str] = [*(moved if len(moved) <= 3 else []), *spelt, *moved, *renamed]
    return list(dict.fromkeys(found))[:3]
