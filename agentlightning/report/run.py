"""What a finished run leaves for people: a summary file, a picture, a table.

Called by `algorithm.verl` at the end of training, and by jobs that wrap it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from .plot import plot_learning_curve
from .progress import VAL_REWARD
from .table import print_summary

_PHASES = {
    "timing_s/gen": "rollouts",
    "timing_s/adv": "advantages",
    "timing_s/update_actor": "update",
    "timing_s/testing": "validation",
    "timing_s/save_checkpoint": "checkpoints",
}


def summarise(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the metrics of a run come to.

    Args:
        history: Rows of `metrics.jsonl`.

    Returns:
        `val_reward_before` and `val_reward_after` where there was a validation, `steps`, `rollouts`, `tokens`,
        `wall_s` (of the steps, interrupted ones aside) and `wall_s_by_phase`.
    """
    validated = [row[VAL_REWARD] for row in history if VAL_REWARD in row]
    rewards = {"val_reward_before": validated[0], "val_reward_after": validated[-1]} if validated else {}
    phases = {name: sum(row.get(key, 0.0) for row in history) for key, name in _PHASES.items()}
    return {
        **rewards,
        "steps": max((int(row["step"]) for row in history), default=0),
        "rollouts": int(sum(row.get("training/n_rollouts", 0) for row in history)),
        "tokens": int(sum(row.get("perf/total_num_tokens", 0) for row in history)),
        "wall_s": sum(phases.values()),
        "wall_s_by_phase": phases,
    }


def write_report(
    run_dir: Path,
    summary: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    *,
    title: str,
    before: float | None = None,
    after: float | None = None,
    quiet: bool = False,
) -> None:
    """Write `summary.json` and `reward.png` into `run_dir`, and print the table.

    Args:
        run_dir: Directory of the run.
        summary: See `print_summary`.
        history: Rows of `metrics.jsonl`.
        title: Of the picture.
        before, after: Held-out reward for the picture; default the first and last validation.
        quiet: Print nothing.
    """
    (run_dir / "summary.json").write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    plot_learning_curve(history, run_dir / "reward.png", title=title, before=before, after=after)
    if not quiet:
        print_summary(summary)
