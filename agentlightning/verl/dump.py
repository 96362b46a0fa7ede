"""Rollouts as text, a JSON line each, under verl's names: `trainer.rollout_data_dir`, `trainer.validation_data_dir`.

Called by the loop in `trainer`. The store has all of it and more; these files are for reading and for tools of verl's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from agentlightning.types import Episode, ModelError

from .daemon import Sample


def dump_rollouts(
    directory: str, step: int, samples: Sequence[Sample], tokenizers: Mapping[str, Any], *, fill: float
) -> Path:
    """Write `<directory>/<step>.jsonl`.

    Each line has `input` (the first prompt), `output` (all that came after it, other parties' words included), `gts`
    (the task's ground truth, where it has one), `score`, `step`, `uid` (of the group), `rollout_id`, and the dimensions
    of the reward. With several policies there is a line for each.

    Raises:
        ModelError: the file system refused.
    """
    path = Path(directory).expanduser() / f"{step}.jsonl"
    lines = [
        orjson.dumps(_line(sample, name, episode, tokenizers[name], step, fill, len(sample.episodes) > 1))
        for sample in samples
        for name, episode in sample.episodes.items()
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(b"".join(line + b"\n" for line in lines))
        partial.replace(path)
    except OSError as error:
        raise ModelError(f"can't write the rollouts of step {step} to `{path}`: {error}") from error
    return path


def _line(
    sample: Sample, policy: str, episode: Episode, tokenizer: Any, step: int, fill: float, several: bool
) -> dict[str, Any]:
    task: Any = sample.rollout.input
    start = len(episode.turns[0].call.prompt_ids) if episode.turns else 0
    whole = max(
        (row.token_ids for row in episode.trajectories),
        key=len,
        default=episode.turns[0].call.prompt_ids[:0] if start else [],
    )
    row: dict[str, Any] = {
        "input": tokenizer.decode(whole[:start]),
        "output": tokenizer.decode(whole[start:]),
        "gts": _ground_truth(task),
        "score": fill if episode.reward is None else episode.reward,
        "step": step,
        "uid": f"{sample.task}-{sample.draw}",
        "rollout_id": sample.rollout.rollout_id,
    }
    return row | ({"policy": policy} if several else {}) | episode.rewards


def _ground_truth(task: Any) -> Any:
    if not isinstance(task, dict):
        return None
    known: dict[str, Any] = task
    rule: Any = known.get("reward_model")
    return rule.get("ground_truth") if isinstance(rule, dict) else known.get("ground_truth")
