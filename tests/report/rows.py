"""Made-up metrics of a run that learns."""

import math

import numpy as np


def learning_rows(steps: int = 48, start: float = 0.5, end: float = 0.95, every: int = 8) -> list[dict[str, float]]:
    """Rows of `metrics.jsonl`: step 0 is the validation before training."""
    noise = np.random.default_rng(0)
    rows: list[dict[str, float]] = []
    for step in range(steps + 1):
        reward = start + (end - start) * (1 - math.exp(-3 * step / steps)) / (1 - math.exp(-3))
        row: dict[str, float] = {"step": step}
        if step:
            row["critic/score/mean"] = float(np.clip(noise.normal(reward - 0.04, 0.06), 0, 1))
            row |= {"timing_s/step": 2.0, "perf/total_num_tokens": 9000.0, "training/n_rollouts_failed": 0.0}
        if step % every == 0:
            row["val/reward"] = reward
        rows.append(row)
    return rows
