"""What both sides compute: seeded tensors, and the calls that are made with them. Numpy and torch only, as it is read
in both environments.

A case names a call of `ours.py` and `peer_verl.py` and says what goes into it, in this project's names. Small ones
compare numbers (`parity_cases`), large ones time and memory (`measured_cases`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

Columns = dict[str, Any]

ESTIMATORS = (
    "gae",
    "grpo",
    "grpo_vectorized",
    "grpo_passk",
    "gdpo",
    "rloo",
    "rloo_vectorized",
    "opo",
    "gpg",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "remax",
    "optimal_token_baseline",
    "tir_optimal_token_baseline",
)
POLICY_LOSSES = (
    "vanilla",
    "gspo",
    "sapo",
    "gpg",
    "cispo",
    "dppo_tv",
    "dppo_kl",
    "dro",
    "clip_cov",
    "kl_cov",
    "geo_mean",
    "reinforce",
)
AGG_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
KL_KINDS = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3", "k1+", "abs+", "k2+", "k3+", "low_var_kl+", "full")
LARGE = (1024, 4096)

ALGORITHM = {"gamma": 1.0, "lam": 1.0, "norm_adv_by_std_in_grpo": True}
GDPO = {"gdpo_reward_keys": ["style", "truth"], "gdpo_reward_weights": [0.5, 2.0]}
ACTOR = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0}
OF_LOSS = {"clip_cov_ratio": 0.1, "clip_cov_lb": 0.1, "clip_cov_ub": 2.0, "kl_cov_ratio": 0.1, "dro_beta": 0.3}


class Case(NamedTuple):
    """One call."""

    what: str
    """The function; a row of the tables."""
    name: str
    """What is special about it."""
    call: str
    """A key of `CALLS` on either side."""
    arguments: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.what} | {self.name}"


def columns(shape: tuple[int, int], kind: str, dtype: torch.dtype, seed: int, spread: float = 0.3) -> Columns:
    """Everything that a call may need, for (B, T) rows.

    Args:
        shape: B, T.
        kind: `prefix`: rows of different lengths, each scored at its last token with one of four scores, so that
            groups of 4 tie now and then. `holes`: masks with gaps, groups of 1 to 5 in disorder, rewards anywhere.
            `empty`: the same with rows, and one whole group, that have no trained token. `nan`: `holes` with NaN
            wherever the mask is 0, but in the rewards.
        dtype: Of everything but masks and labels.
        seed: Of everything.
        spread: Standard deviation of the log-ratios.
    """
    generator = np.random.default_rng(seed)
    B, T = shape
    lengths = generator.integers(max(T // 4, 2), T + 1, B)
    lengths[0] = T
    mask = np.arange(T) < lengths[:, None]
    labels = np.arange(B) // (8 if shape == LARGE else 4)
    if kind != "prefix":
        mask &= generator.random(shape) < 0.7
        labels = generator.permutation(np.repeat(np.arange(B), np.arange(B) % 5 + 1)[:B])
    if kind == "empty":
        mask[labels == labels[0]] = False
        mask[generator.integers(1, B, 3)] = False
    rewards = generator.normal(size=shape) * (generator.random(shape) < 0.5)
    if kind == "prefix":
        rewards = np.zeros(shape)
        rewards[np.arange(B), lengths - 1] = generator.choice([0.0, 0.1, 0.3, 1.0], B)
    floats = {name: generator.normal(size=shape) for name in ("values", "returns", "vpreds", "advantages", "loss_mat")}
    old = -np.abs(generator.normal(size=shape)) - 0.01
    floats |= {"old_log_prob": old, "sum_pi_squared": generator.random(shape)}
    floats |= {
        name: np.minimum(old + spread * generator.normal(size=shape), -1e-3)
        for name in ("log_prob", "ref_log_prob", "rollout_log_prob")
    }
    floats["rollout_is_weights"] = np.exp(0.3 * generator.normal(size=shape))
    if kind == "nan":
        floats = {name: np.where(mask, value, np.nan) for name, value in floats.items()}
    rows = {"reward_baselines": generator.normal(size=B), "style": generator.choice([0.0, 1.0], B)}
    floats |= {"token_level_rewards": rewards, **rows, "truth": generator.normal(size=B)}
    found: Columns = {name: torch.from_numpy(value).to(dtype) for name, value in floats.items()}
    return {**found, "response_mask": torch.from_numpy(mask).long(), "index": [f"prompt {i}" for i in labels]}


# -- numbers -------------------------------------------------------------------------------------------------------


def parity_cases() -> Iterator[Case]:
    """All of them, in float64 and in float32."""
    for dtype, bits in ((torch.float64, "float64"), (torch.float32, "float32")):
        for case in (*_advantages(dtype), *_policies(dtype), *_aggregations(dtype), *_values(dtype), *_kl(dtype)):
            yield case._replace(name=f"{case.name}, {bits}")
        for case in _corrections(dtype):
            yield case._replace(name=f"{case.name}, {bits}")


def _advantages(dtype: torch.dtype) -> Iterator[Case]:
    settings = {
        "plain": {**ALGORITHM, **GDPO},
        "other settings": {"gamma": 0.9, "lam": 0.8, "norm_adv_by_std_in_grpo": False, **GDPO},
    }
    for name in ESTIMATORS:
        for kind in ("prefix", "holes", "empty"):
            given = columns((24, 17), kind, dtype, seed=1)
            for title, config in settings.items():
                arguments = {"name": name, "columns": given, "config": config}
                yield Case(name, f"{kind}, {title}", "advantages", arguments)
    for name in ("optimal_token_baseline", "tir_optimal_token_baseline"):
        given = columns((24, 17), "holes", dtype, seed=2)
        arguments = {"name": name, "columns": given, "config": ALGORITHM, "weights": True}
        yield Case(name, "holes, sampler's weights", "advantages", arguments)
        arguments = {"name": name, "columns": given, "config": {**ALGORITHM, "handle_zero_tail": False}}
        yield Case(name, "holes, tail kept", "advantages", arguments)
    tied = columns((24, 17), "prefix", dtype, seed=3)
    tied["token_level_rewards"] = 0.1 * (tied["token_level_rewards"] != 0).to(dtype)
    tied["index"] = [f"prompt {i // 3}" for i in range(24)]  # the mean of three times 0.1 is not 0.1
    for name in ESTIMATORS:
        arguments = {"name": name, "columns": tied, "config": settings["plain"]}
        yield Case(name, "all scores 0 or 0.1", "advantages", arguments)


def _policies(dtype: torch.dtype) -> Iterator[Case]:
    for mode in POLICY_LOSSES:
        for kind, spread in (("prefix", 0.3), ("holes", 0.3), ("holes", 12.0), ("empty", 0.3), ("nan", 0.3)):
            if kind == "nan" and mode in ("gspo", "sapo", "geo_mean"):  # verl multiplies by the mask: NaN stays
                continue
            given = columns((12, 17), kind, dtype, seed=4, spread=spread)
            title = f"{kind}, log-ratios of {spread:g}"
            for agg in AGG_MODES if kind in ("holes", "empty") else AGG_MODES[:1]:
                yield _policy(mode, f"{title}, {agg}", given, loss_agg_mode=agg)
            if kind == "holes":
                yield _policy(mode, f"{title}, weighted", given, weights=True)
                totals = {"dp_size": 2, "batch_num_tokens": 999, "global_batch_size": 48, "loss_scale_factor": 100}
                for agg in AGG_MODES:
                    yield _policy(mode, f"{title}, {agg}, totals given", given, loss_agg_mode=agg, totals=totals)
                yield _policy(mode, f"{title}, other bounds", given, clip_ratio_low=0.05, clip_ratio_high=0.6)
                yield _policy(mode, f"{title}, other gates", given, clip_ratio_c=1.5, tau_pos=2.0, tau_neg=0.5)
    given = columns((12, 17), "holes", dtype, seed=5, spread=0.5)
    for kind in ("ppo_clip", "reinforce"):
        for level in ("token", "sequence"):
            correction = {"loss_type": kind, "rollout_is": level, "rollout_is_threshold": 1.5}
            yield _policy("bypass_mode", f"{kind}, {level} weights", given, correction=correction)
        rejecting = {"loss_type": kind, "rollout_is": None, "rollout_rs": "token_k1", "rollout_rs_threshold": "0.5_2.0"}
        yield _policy("bypass_mode", f"{kind}, rejection", given, correction=rejecting)


def _policy(
    mode: str,
    name: str,
    given: Columns,
    *,
    loss_agg_mode: str = "token-mean",
    weights: bool = False,
    totals: dict[str, Any] | None = None,
    correction: dict[str, Any] | None = None,
    **actor: float,
) -> Case:
    config = {**ACTOR, **actor, "policy_loss": OF_LOSS, "global_batch_info": totals or {}}
    arguments = {"mode": mode, "columns": given, "loss_agg_mode": loss_agg_mode, "config": config, "weights": weights}
    return Case(f"policy loss {mode}", name, "policy", {**arguments, "correction": correction})


def _aggregations(dtype: torch.dtype) -> Iterator[Case]:
    for mode in (*AGG_MODES, "unheard of"):
        for kind in ("prefix", "holes", "empty"):
            given = columns((12, 17), kind, dtype, seed=6)
            yield Case("agg_loss", f"{mode}, {kind}", "aggregation", {"columns": given, "loss_agg_mode": mode})
        given = columns((12, 17), "nan", dtype, seed=6)
        if mode in ("token-mean", "token-sum"):  # in the others verl multiplies by the mask, and NaN stays
            yield Case("agg_loss", f"{mode}, nan", "aggregation", {"columns": given, "loss_agg_mode": mode})
        given = columns((12, 17), "holes", dtype, seed=6)
        totals = {"dp_size": 4, "batch_num_tokens": 500, "global_batch_size": 30, "loss_scale_factor": 7}
        yield Case("agg_loss", f"{mode}, totals", "aggregation", {"columns": given, "loss_agg_mode": mode, **totals})
        alone = {"columns": given, "loss_agg_mode": mode, "dp_size": 2}
        yield Case("agg_loss", f"{mode}, workers without totals", "aggregation", alone)
        nothing = {**given, "response_mask": torch.zeros_like(given["response_mask"])}
        yield Case("agg_loss", f"{mode}, nothing trained", "aggregation", {"columns": nothing, "loss_agg_mode": mode})


def _values(dtype: torch.dtype) -> Iterator[Case]:
    for kind in ("prefix", "holes", "empty"):
        for mode in AGG_MODES:
            for clip in (0.5, 0.05):
                arguments = {"columns": columns((12, 17), kind, dtype, seed=7), "loss_agg_mode": mode}
                yield Case("value loss", f"{kind}, {mode}, {clip}", "value", {**arguments, "cliprange_value": clip})
    arguments = {"columns": columns((12, 17), "nan", dtype, seed=7), "loss_agg_mode": "token-mean"}
    yield Case("value loss", "nan, token-mean", "value", {**arguments, "cliprange_value": 0.5})


def _kl(dtype: torch.dtype) -> Iterator[Case]:
    for kind in KL_KINDS:
        for spread in (0.1, 3.0, 30.0):
            given = columns((12, 17), "prefix", dtype, seed=8, spread=spread)
            yield Case("kl_penalty", f"{kind}, gaps of {spread:g}", "kl", {"columns": given, "kind": kind})
    for kind in ("kl", "k3"):
        for control in ("fixed", "adaptive"):
            given = columns((12, 17), "empty", dtype, seed=9)
            arguments = {"columns": given, "kind": kind, "control": control}
            yield Case("KL in the reward", f"{kind}, {control}", "kl_in_reward", arguments)


def _corrections(dtype: torch.dtype) -> Iterator[Case]:
    options = [
        *({"rollout_is": level, "rollout_is_threshold": threshold}
          for level in ("token", "sequence") for threshold in (1.5, "0.6_1.4")),
        *({"rollout_is": level, "rollout_is_batch_normalize": True} for level in ("token", "sequence")),
        *({"rollout_rs": f"{level}_{k}", "rollout_rs_threshold": "0.7_1.3" if k == "k1" else 0.05}
          for level in ("token", "seq_sum", "seq_mean", "seq_max") for k in ("k1", "k2", "k3")),
        {"rollout_rs": "token_k1,seq_sum_k2", "rollout_rs_threshold": "2.0,0.4"},
        {"rollout_rs": "token_k3,seq_mean_k3", "rollout_rs_threshold": 0.1, "rollout_is": "token"},
        {"rollout_is": "token", "rollout_is_threshold": "2.0_1.0"},
        {"rollout_is": "row"},
        {"rollout_is": "token", "rollout_is_threshold": True},
        {"rollout_rs": "token_k1"},
        {"rollout_rs": "token_k2", "rollout_rs_threshold": "0.1_0.2"},
        {},
    ]  # fmt: skip
    for option in options:
        for kind, spread in (("prefix", 0.3), ("holes", 0.3), ("holes", 12.0), ("empty", 0.3)):
            given = columns((12, 17), kind, dtype, seed=10, spread=spread)
            title = " ".join(f"{key.removeprefix('rollout_')}={value}" for key, value in option.items()) or "nothing on"
            arguments = {"columns": given, "options": option}
            yield Case("rollout correction", f"{title}, {kind}, log-ratios of {spread:g}", "correction", arguments)


# -- time and memory -----------------------------------------------------------------------------------------------


def measured_cases(shape: tuple[int, int] = LARGE) -> Iterator[Case]:
    """float32, rows of different lengths, groups of 8."""
    given = columns(shape, "prefix", torch.float32, seed=0)
    for name in ESTIMATORS:
        yield Case(name, "", "advantages", {"name": name, "columns": given, "config": {**ALGORITHM, **GDPO}})
    for mode in POLICY_LOSSES:
        yield _policy(mode, "", given)._replace(name="")
    correction = {"loss_type": "reinforce", "rollout_is": "token", "rollout_rs": "token_k1"}
    correction |= {"rollout_rs_threshold": "0.5_2.0"}
    yield _policy("bypass_mode", "", given, correction=correction)
    for mode in ("token-mean", "seq-mean-token-mean"):
        yield Case(f"agg_loss {mode}", "", "aggregation", {"columns": given, "loss_agg_mode": mode})
    yield Case("value loss", "", "value", {"columns": given, "loss_agg_mode": "token-mean", "cliprange_value": 0.5})
    for kind in ("kl", "k3", "k3+"):
        yield Case(f"kl_penalty {kind}", "", "kl", {"columns": given, "kind": kind})
    options = {"rollout_is": "token", "rollout_rs": "seq_mean_k3", "rollout_rs_threshold": 0.1}
    yield Case("rollout correction", "", "correction", {"columns": given, "options": options})
