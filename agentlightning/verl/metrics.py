"""Metrics of a step under verl's names (and, where verl has none, Agent-Lightning's)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .daemon import Sample
from .rows import Scored


def train_metrics(
    samples: Sequence[Sample], groups: Sequence[Sequence[Scored]], *, dropped_groups: int
) -> dict[str, float]:
    """What a training step saw.

    Args:
        samples: All rollouts of the step.
        groups: The groups that were trained on.
        dropped_groups: Groups that failures tore.
    """
    scored = [item for group in groups for item in group]
    calls = [turn.call for item in scored for turn in item.sample.episode.turns]
    silent = sum(1 for group in groups if len({item.reward for item in group}) == 1)
    metrics = {
        "training/n_rollouts": float(len(samples)),
        "training/n_rollouts_failed": float(sum(sample.error is not None for sample in samples)),
        "training/n_rollouts_w_reward": float(sum(sample.episode.reward is not None for sample in samples)),
        "training/n_groups_dropped": float(dropped_groups),
        "training/zero_variance_groups": silent / max(len(groups), 1),
        "training/n_prefix_breaks": float(sum(len(item.sample.episode.prefix_breaks) for item in scored)),
        "training/n_calls_without_token_ids": float(sum(sample.episode.missing_token_ids for sample in samples)),
        "training/n_calls_failed_by_backend": float(sum(sample.episode.backend_failures for sample in samples)),
        "training/n_calls_retokenized": float(sum(sample.episode.retokenized for sample in samples)),
        "training/n_rows": float(sum(len(item.sample.episode.trajectories) for item in scored)),
        "perf/total_num_tokens": float(
            sum(len(row.token_ids) for item in scored for row in item.sample.episode.trajectories)
        ),
    }
    metrics |= _stats("critic/score", [item.reward for item in scored])
    metrics |= _stats("critic/advantages", [a for item in scored for a in item.advantages if a is not None])
    metrics |= _stats("response_length", [len(call.response_ids) for call in calls])
    metrics |= _stats("prompt_length", [len(call.prompt_ids) for call in calls])
    metrics |= _stats("num_turns", [len(item.sample.episode.turns) for item in scored])
    metrics["response_length/clip_ratio"] = _mean([call.finish_reason == "length" for call in calls])
    return metrics


def val_metrics(samples: Sequence[Sample], fill: float) -> dict[str, float]:
    """What a validation saw: `val/reward` is the mean final reward, a missing one counted as `fill`."""
    rewards = [fill if sample.episode.reward is None else sample.episode.reward for sample in samples]
    metrics = {
        "val/reward": _mean(rewards),
        "val/n_rollouts": float(len(samples)),
        "val/n_rollouts_failed": float(sum(sample.error is not None for sample in samples)),
        "val/turn_count": _mean([len(sample.episode.turns) for sample in samples]),
        "val/mean_response_length": _mean(
            [len(turn.call.response_ids) for sample in samples for turn in sample.episode.turns]
        ),
    }
    n = 1 + max((sample.sample for sample in samples), default=0)
    by_source: dict[str, list[float]] = {}
    for sample, reward in zip(samples, rewards, strict=True):
        task = sample.rollout.input
        source = str(task.get("data_source", "unknown")) if isinstance(task, dict) else "unknown"
        by_source.setdefault(source, []).append(reward)
    metrics |= {f"val-core/{source}/reward/mean@{n}": _mean(values) for source, values in by_source.items()}
    return metrics


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _stats(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"{name}/mean": _mean(values), f"{name}/max": float(max(values)), f"{name}/min": float(min(values))}
