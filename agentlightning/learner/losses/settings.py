"""`Settings`: the config that losses read, verl's leaf names of `actor.*` with verl's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import settings
from ..settings import Config, entries

_ACTOR: dict[str, Any] = {
    "clip_ratio": 0.2,
    "clip_ratio_c": 3.0,
    "tau_pos": 1.0,
    "tau_neg": 1.05,
    "loss_agg_mode": "token-mean",
    "loss_scale_factor": None,
}
_POLICY_LOSS: dict[str, Any] = {
    "clip_cov_ratio": 2e-4,
    "clip_cov_lb": 1.0,
    "clip_cov_ub": 5.0,
    "kl_cov_ratio": 2e-4,
    "ppo_kl_coef": 0.1,
    "dro_beta": None,
}


class Settings(settings.Settings):
    """Leaf names of `actor.*` with `policy_loss`, `rollout_correction` and `global_batch_info`, see `of`."""

    @classmethod
    def of(cls, config: Config | None) -> Settings:
        """`config` with defaults for what is missing or `None`.

        `clip_ratio_low` and `clip_ratio_high` fall back to `clip_ratio`. `rollout_correction` may stand in `config` or
        in its `policy_loss`. `global_batch_info` gets the config's `loss_scale_factor` unless it has its own.
        """
        if isinstance(config, cls):
            return config
        result = _filled(_ACTOR, config)
        for name in ("clip_ratio_low", "clip_ratio_high"):
            if result.get(name) is None:
                result[name] = result["clip_ratio"]
        result["policy_loss"] = _filled(_POLICY_LOSS, result.get("policy_loss"))
        correction = result.get("rollout_correction") or result["policy_loss"].get("rollout_correction")
        result["rollout_correction"] = cls(given(correction))
        totals = given(result.get("global_batch_info"))
        result["global_batch_info"] = {"loss_scale_factor": result["loss_scale_factor"], **totals}
        return result


def given(config: Config | None) -> dict[str, Any]:
    """What is set: all keys but those that are `None`."""
    return {name: value for name, value in entries(config).items() if value is not None}


def _filled(defaults: Mapping[str, Any], config: Config | None) -> Settings:
    return Settings({**dict.fromkeys(entries(config)), **defaults, **given(config)})
