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
    "rollouts": ("gen",),
    "log-probs": ("old_log_prob", "ref", "values"),
    "advantages": ("adv",),
    "update": ("update_critic", "update_actor"),
    "validation": ("testing",),
    "checkpoints": ("save_checkpoint",),
}
"""What verl's `timing_s/<name>` come to, for people."""


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
    phases = {phase: sum(_seconds(row, names) for row in history) for phase, names in _PHASES.items()}
    return {
        **rewards,
        "steps": max((int(row["step"]) for row in history), default=0),
        "rollouts": int(sum(row.get("training/n_rollouts", 0) for row in history)),
        "tokens": int(sum(row.get("perf/total_num_tokens", 0) for row in history)),
        "wall_s": sum(phases.values()),
        "wall_s_by_phase": {phase: seconds for phase, seconds in phases.items() if seconds},
    }


def _seconds(row: Mapping[str, Any], names: Sequence[str]) -> float:
    """Of these timings; with several policies each has its own, under its name."""
    wanted = tuple(f"timing_s/{name}" for name in names)
    return sum(value for key, value in row.items() if key in wanted or key.partition("/")[2] in wanted)


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
