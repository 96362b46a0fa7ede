"""Rollouts as text under verl's names: files of `trainer.rollout_data_dir` and `trainer.validation_data_dir`, and the
answers that `trainer.log_val_generations` shows.

Called by the loop in `trainer`. The store has all of it and more; this is for reading and for tools of verl's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from agentlightning.types import Episode, ModelError

from .sample import Sample

SHOWN_SEED = 42
"""Of the choice of answers to show: the same ones in every validation."""


def describe(
    samples: Sequence[Sample],
    tokenizers: Mapping[str, Any],
    *,
    fill: float,
    shape: Callable[[Episode], float] | None = None,
) -> list[dict[str, Any]]:
    """A mapping for each rollout, in their order; with several policies one for each of them.

    Each has `input` (the first prompt), `output` (all that came after it, other parties' words included), `gts` (the
    task's ground truth, where it has one), `score`, `step`, `uid` (of the group), `rollout_id`, and the dimensions of
    the reward.

    Args:
        samples: Rollouts.
        tokenizers: By policy.
        fill: Score of a rollout without a reward.
        shape: What is added to the reward of an episode.
    """
    several = len(tokenizers) > 1
    return [
        {
            **episode.rewards,
            **_texts(episode, tokenizers[name]),
            "gts": _ground_truth(sample.rollout.input),
            "score": (fill if episode.reward is None else episode.reward) + (0.0 if shape is None else shape(episode)),
            "step": sample.step,
            "uid": f"{sample.task}-{sample.draw}",
            "rollout_id": sample.rollout.rollout_id,
            **({"policy": name} if several else {}),
        }
        for sample in samples
        for name, episode in sample.episodes.items()
    ]


def write_lines(directory: str, step: int, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Write `<directory>/<step>.jsonl`, whole or not at all.

    Raises:
        ModelError: the file system refused.
    """
    path = Path(directory).expanduser() / f"{step}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        partial.replace(path)
    except OSError as error:
        raise ModelError(f"can't write the rollouts of step {step} to `{path}`: {error}") from error
    return path


def some(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` of them at random, in their order; of the same tasks the same ones every time."""
    chosen = np.random.default_rng(SHOWN_SEED).permutation(len(samples))[:count]
    return [samples[index] for index in sorted(chosen.tolist())]


def _texts(episode: Episode, tokenizer: Any) -> dict[str, str]:
    start = len(episode.turns[0].call.prompt_ids) if episode.turns else 0
    longest = max((row.token_ids for row in episode.trajectories), key=len, default=np.zeros(0, np.int32))
    return {
        "input": tokenizer.decode(longest[:start], skip_special_tokens=True),
        "output": tokenizer.decode(longest[start:], skip_special_tokens=True),
    }


def _ground_truth(task: Any) -> Any:
    if not isinstance(task, dict):
        return None
    known: dict[str, Any] = task
    rule: Any = known.get("reward_model")
    return rule.get("ground_truth") if isinstance(rule, dict) else known.get("ground_truth")
