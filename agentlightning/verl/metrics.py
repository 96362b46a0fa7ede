"""Metrics of a step under verl's names (and, where verl has none, Agent-Lightning's).

Small functions over plain numbers; the loop in `trainer` and `policy` calls them. A statistic of nothing is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike

from agentlightning.types import Episode

from .rows import Scored
from .sample import Sample
from .validation import answer_values, interval, source_of, validation_metrics

__all__ = [
    "gap_metrics",
    "interval",
    "length_metrics",
    "overlong_metrics",
    "policy_metrics",
    "response_tokens",
    "seqlen_metrics",
    "speed_metrics",
    "staleness_metrics",
    "stats",
    "step_metrics",
    "throughput_metrics",
    "timed",
    "timing_per_token",
    "val_metrics",
    "validation_metrics",
]


def stats(name: str, values: ArrayLike) -> dict[str, float]:
    """`<name>/{mean,max,min}` of any numbers; empty where there are none."""
    x = np.asarray(values, np.float64)
    return (
        {f"{name}/mean": float(x.mean()), f"{name}/max": float(x.max()), f"{name}/min": float(x.min())}
        if x.size
        else {}
    )


@contextmanager
def timed(metrics: dict[str, float], name: str) -> Generator[None]:
    """Add the seconds that the block takes to `timing_s/<name>` of `metrics`."""
    started = time.perf_counter()
    yield
    key = f"timing_s/{name}"
    metrics[key] = metrics.get(key, 0.0) + time.perf_counter() - started


def gap_metrics(rollout_logprobs: ArrayLike, actor_logprobs: ArrayLike) -> dict[str, float]:
    """How far sampler and learner disagree on the probabilities of the sampled tokens.

    `training/rollout_probs_diff_{valid,max,mean,std}` of the absolute differences, and
    `training/rollout_actor_probs_pearson_corr`, which is 1 where they agree, and where nothing varies.

    Args:
        rollout_logprobs: (N,) log-probs of the trained tokens as the engine recorded them.
        actor_logprobs: (N,) as a fresh forward of the same weights gives them.
    """
    sampled, learnt = (np.exp(np.asarray(x, np.float64)) for x in (rollout_logprobs, actor_logprobs))
    if not sampled.size:
        return {"training/rollout_probs_diff_valid": 0.0}
    gap = np.abs(sampled - learnt)
    deviations = sampled.std() * learnt.std()
    correlation = (
        float(np.mean((sampled - sampled.mean()) * (learnt - learnt.mean())) / deviations) if deviations else 1.0
    )
    prefix = "training/rollout_probs_diff"
    return {
        f"{prefix}_valid": 1.0,
        f"{prefix}_max": float(gap.max()),
        f"{prefix}_mean": float(gap.mean()),
        f"{prefix}_std": float(gap.std(ddof=1)) if gap.size > 1 else 0.0,
        "training/rollout_actor_probs_pearson_corr": correlation,
    }


def length_metrics(
    prompt_lengths: ArrayLike, response_lengths: ArrayLike, *, cut_off: ArrayLike, max_prompt: int | None = None
) -> dict[str, float]:
    """`prompt_length/*`, `response_length/*`, `response_length_non_aborted/*` and `response/aborted_ratio`.

    Args:
        prompt_lengths: (C,) tokens of each call's prompt.
        response_lengths: (C,) tokens of its response; 0 is an aborted one.
        cut_off: (C,) whether the response ended at the limit: `response_length/clip_ratio`.
        max_prompt: The longest prompt, for `prompt_length/clip_ratio`.
    """
    prompts, responses = np.asarray(prompt_lengths, np.float64), np.asarray(response_lengths, np.float64)
    if not responses.size:
        return {}
    metrics = stats("prompt_length", prompts) | stats("response_length", responses)
    metrics |= stats("response_length_non_aborted", responses[responses > 0])
    metrics["response_length/clip_ratio"] = float(np.mean(np.asarray(cut_off, np.float64)))
    metrics["response/aborted_ratio"] = float(np.mean(responses == 0))
    if max_prompt is not None:
        metrics["prompt_length/clip_ratio"] = float(np.mean(prompts >= max_prompt))
    return metrics


def seqlen_metrics(given: ArrayLike, balanced: ArrayLike | None = None) -> dict[str, float]:
    """`global_seqlen/{min,max,minmax_diff,balanced_min,balanced_max,mean}`: how evenly workers are loaded.

    Args:
        given: (W,) tokens of each worker's share as the rollouts came.
        balanced: (W,) tokens of each worker's share as it was handed out; `None`: the same.
    """
    before = np.asarray(given, np.float64)
    after = before if balanced is None else np.asarray(balanced, np.float64)
    return {
        "global_seqlen/min": float(before.min()),
        "global_seqlen/max": float(before.max()),
        "global_seqlen/minmax_diff": float(before.max() - before.min()),
        "global_seqlen/balanced_min": float(after.min()),
        "global_seqlen/balanced_max": float(after.max()),
        "global_seqlen/mean": float(before.mean()),
    }


def throughput_metrics(tokens: float, seconds: float, workers: int = 1) -> dict[str, float]:
    """`perf/{total_num_tokens,time_per_step,throughput}`.

    Args:
        tokens: Of all prompts and responses of the step.
        seconds: That the step took.
        workers: GPUs, or 1.
    """
    return {
        "perf/total_num_tokens": float(tokens),
        "perf/time_per_step": float(seconds),
        "perf/throughput": float(tokens / seconds / workers),
    }


def timing_per_token(timings: Mapping[str, float], *, response_tokens: float, all_tokens: float) -> dict[str, float]:
    """`timing_per_token_ms/*` for the phases that `timings` has.

    Args:
        timings: Metrics of the step with `timing_s/<phase>` in seconds.
        response_tokens: Tokens that were sampled: what `gen` is divided by.
        all_tokens: Tokens of prompts and responses: what the others are divided by.
    """
    of = dict.fromkeys(("ref", "values", "adv", "update_critic", "update_actor"), all_tokens) | {"gen": response_tokens}
    return {
        f"timing_per_token_ms/{phase}": timings[f"timing_s/{phase}"] * 1000 / tokens
        for phase, tokens in of.items()
        if f"timing_s/{phase}" in timings and tokens
    }


def staleness_metrics(versions: Sequence[Sequence[int]], current: int) -> dict[str, float]:
    """`training/off_policy/trajectory_{spans,staleness,staleness_worst}/*`.

    Args:
        versions: For each rollout the weights versions that sampled its turns.
        current: The version that is about to be trained: 0 steps old.
    """
    known = [v for v in versions if len(v)]
    prefix = "training/off_policy/trajectory"
    return {
        **stats(f"{prefix}_spans", [len(set(v)) for v in known]),
        **stats(f"{prefix}_staleness", [current - max(v) for v in known]),
        **stats(f"{prefix}_staleness_worst", [current - min(v) for v in known]),
    }


def overlong_metrics(penalties: ArrayLike) -> dict[str, float]:
    """`reward/overlong_reward/*` and `reward/overlong/mean`, the share of rollouts with a penalty.

    Args:
        penalties: (R,) what overlong shaping added to each reward, 0 or less.
    """
    x = np.asarray(penalties, np.float64)
    return {**stats("reward/overlong_reward", x), "reward/overlong/mean": float(np.mean(x < 0))} if x.size else {}


# -- of a whole step ------------------------------------------------------------------------------------------------


def step_metrics(
    samples: Sequence[Sample], groups: Sequence[Sequence[Scored]], *, torn: int = 0, silent: int = 0
) -> dict[str, float]:
    """What a training step saw.

    Args:
        samples: All rollouts of the step.
        groups: The groups that were trained on, as a policy sees them.
        torn: Groups left out because failures tore them.
        silent: Groups left out because their rollouts did not differ.
    """
    episodes = [episode for sample in samples for episode in sample.episodes.values()]
    scored = [item for group in groups for item in group]
    equal = silent + sum(len({item.reward for item in group}) == 1 for group in groups)
    calls, retokenized = sum(len(each.turns) for each in episodes), sum(each.retokenized for each in episodes)
    return {
        "training/n_rollouts": float(len(samples)),
        "training/n_rollouts_failed": float(sum(sample.error is not None for sample in samples)),
        "training/n_rollouts_w_reward": float(sum(sample.reward is not None for sample in samples)),
        "training/n_groups_dropped": float(torn),
        "training/n_groups_silent": float(silent),
        "training/zero_variance_groups": equal / max(len(groups) + silent, 1),
        "training/n_calls_without_token_ids": float(sum(episode.missing_token_ids for episode in episodes)),
        "training/n_calls_failed_by_backend": float(sum(episode.backend_failures for episode in episodes)),
        "training/n_calls_retokenized": float(retokenized),
        "training/retokenized_share": retokenized / max(calls, 1),
        **stats("critic/score", [item.reward for item in scored if _responded(item.sample)]),
    }


def policy_metrics(groups: Sequence[Sequence[Scored]], version: int) -> dict[str, float]:
    """What a policy did in a training step.

    Args:
        groups: The groups that it is trained on.
        version: That its weights have before they are trained.
    """
    scored = [item for group in groups for item in group]
    calls = [turn.call for item in scored for turn in item.episode.turns]
    return {
        "training/n_rows": float(sum(len(item.episode.trajectories) for item in scored)),
        "training/n_prefix_breaks": float(sum(len(item.episode.prefix_breaks) for item in scored)),
        "perf/total_num_tokens": float(sum(len(row.token_ids) for item in scored for row in item.episode.trajectories)),
        **length_metrics(
            [len(call.prompt_ids) for call in calls],
            [len(call.response_ids) for call in calls],
            cut_off=[call.finish_reason == "length" for call in calls],
        ),
        **stats("num_turns", [len(item.episode.turns) for item in scored]),
        # Calls that were tokenised again have no version.
        **staleness_metrics(
            [[t.call.weights_version for t in item.episode.turns if t.call.logprobs is not None] for item in scored],
            version,
        ),
    }


def response_tokens(samples: Sequence[Sample]) -> int:
    """Tokens that all policies sampled in these rollouts."""
    episodes = [episode for sample in samples for episode in sample.episodes.values()]
    return sum(len(turn.call.response_ids) for episode in episodes for turn in episode.turns)


def speed_metrics(metrics: Mapping[str, float], sampled: int) -> dict[str, float]:
    """`perf/*`, `timing_per_token_ms/*` and `global_seqlen/*` of a step.

    Args:
        metrics: Of the step, with its `perf/total_num_tokens` and `timing_s/*`.
        sampled: Tokens that were sampled in it.
    """
    tokens = metrics["perf/total_num_tokens"]
    return {
        **throughput_metrics(tokens, metrics["timing_s/step"]),
        **timing_per_token(metrics, response_tokens=sampled, all_tokens=tokens),
        **seqlen_metrics([tokens]),
    }


def val_metrics(
    samples: Sequence[Sample], fill: float, shape: Callable[[Episode], float] | None = None
) -> dict[str, float]:
    """What a validation saw: `val/reward` is the mean final reward; one that is missing or no number counts as `fill`.

    Beside it verl's own names, see `validation_metrics`. Variables are `reward`, and every other dimension that the
    agent's rewards had; the vote for `maj@k` is the label `pred`.

    Args:
        samples: Rollouts of one validation.
        fill: Reward of a rollout that gave none.
        shape: What is added to each reward, such as the penalty for its length; logged as `overlong_reward`.
    """
    episodes = [sample.episode for sample in samples]
    added = [0.0 if shape is None else shape(episode) for episode in episodes]
    rewards = [
        (fill if episode.reward is None or not isfinite(episode.reward) else episode.reward) + penalty
        for episode, penalty in zip(episodes, added, strict=True)
    ]
    dimensions = [{k: v for k, v in episode.rewards.items() if isfinite(v)} for episode in episodes]
    values = answer_values(rewards, dimensions)
    if shape is not None:
        values |= {"overlong_reward": [*added], "overlong": [float(penalty < 0) for penalty in added]}
    turns = [len(episode.turns) for episode in episodes]
    return {
        "val/reward": _mean(rewards),
        "val/n_rollouts": float(len(samples)),
        "val/n_rollouts_failed": float(sum(sample.error is not None for sample in samples)),
        "val/turn_count": _mean(turns),
        "val/mean_response_length": _mean(
            [len(turn.call.response_ids) for episode in episodes for turn in episode.turns]
        ),
        **stats("val-aux/num_turns", turns),
        **validation_metrics(
            [source_of(sample.rollout.input) for sample in samples],
            [sample.task for sample in samples],
            values,
            pred=[episode.labels.get("pred") for episode in episodes],
            fill=fill,
        ),
    }


def _responded(sample: Sample) -> bool:
    return any(len(turn.call.response_ids) for episode in sample.episodes.values() for turn in episode.turns)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
