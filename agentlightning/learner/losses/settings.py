"""`Settings`: the config that losses read, verl's leaf names of `actor.*` with verl's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


class Settings(dict[str, Any]):
    """A mapping whose keys are attributes too, so that a loss written for verl's config object reads it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the loss's config has no `{name}`") from None

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> Settings:
        """`config` with defaults for what is missing or `None`.

        `clip_ratio_low` and `clip_ratio_high` fall back to `clip_ratio`. `rollout_correction` may stand in `config` or
        in its `policy_loss`. `global_batch_info` gets the config's `loss_scale_factor` unless it has its own.
        """
        if isinstance(config, cls):
            return config
        result = _filled(_ACTOR, config or {})
        for name in ("clip_ratio_low", "clip_ratio_high"):
            if result.get(name) is None:
                result[name] = result["clip_ratio"]
        result["policy_loss"] = _filled(_POLICY_LOSS, result.get("policy_loss") or {})
        correction = result.get("rollout_correction") or result["policy_loss"].get("rollout_correction") or {}
        result["rollout_correction"] = cls(correction)
        totals = {name: value for name, value in (result.get("global_batch_info") or {}).items() if value is not None}
        result["global_batch_info"] = {"loss_scale_factor": result["loss_scale_factor"], **totals}
        return result


def _filled(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> Settings:
    given = {name: value for name, value in config.items() if value is not None}
    return Settings({**dict.fromkeys(config), **defaults, **given})
