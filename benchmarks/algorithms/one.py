"""One piece of the benchmark in a process of its own, so that its memory is its own. Writes one JSON file.

    python -m benchmarks.algorithms.one warm|start|variance|ALGORITHM [--seed N] [--home DIR]

Called by `compare`. A piece that is killed leaves nothing and begins anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.report.rss import PeakRss
from examples.calc.agent import calc_agent

from . import matrix, warm
from .recorder import HELD, REWARD, ROLLOUTS, Recorder

ENTROPY = "actor/entropy"


def warm_start(home: Path, seed: int) -> dict[str, Any]:
    return warm.make_warm_start(home)


def start(home: Path, seed: int) -> dict[str, Any]:
    """How good the warm start is, and how much memory it takes to sample from it."""
    return evaluate(home, home / "warm_start")


def evaluate(home: Path, model: Path) -> dict[str, Any]:
    """Greedy reward on held-out problems."""
    _, test = warm.problems(home)
    config = {**matrix.COMMON, "actor_rollout_ref.model.path": str(model), "trainer.val_only": True}
    config["trainer.val_before_train"] = True
    algorithm = agl.VERL(config)
    _trainer(algorithm, None).fit(calc_agent, val_dataset=test)
    return _end(algorithm.history[-1])


def train(name: str, home: Path, seed: int) -> dict[str, Any]:
    """One run of an algorithm, with its end result and its curve."""
    chosen, settings = matrix.ALGORITHMS[name], warm.settings_of(name, home, seed)
    if chosen.preset is None:
        return {**warm.more(home, seed), **evaluate(home, matrix.sft_model(home, seed)), "settings": settings}
    problems, test = warm.problems(home)
    algorithm = agl.VERL(settings["config"], trainer_cls=Recorder, preset=chosen.preset)
    work = home / "work" / f"{name}-seed{seed}"
    shutil.rmtree(work, ignore_errors=True)
    _trainer(algorithm, work).fit(calc_agent, problems, val_dataset=test)
    shutil.rmtree(work)
    steps = algorithm.history
    return {
        **_end(steps[-1]),
        "rewards": [row[REWARD] for row in steps],
        "rollouts": [row[ROLLOUTS] for row in steps],
        "entropies": [row.get(ENTROPY) for row in steps],
        "held": max(row[HELD] for row in steps),
        "settings": settings,
    }


def variance(home: Path, seed: int) -> dict[str, Any]:
    """How noisy the gradient is at the warm start, by estimator."""
    from .variance import measure

    problems, _ = warm.problems(home)
    return measure(home / "warm_start", problems, lambda algorithm: _trainer(algorithm, None))


def _trainer(algorithm: agl.VERL, run_dir: Path | None) -> agl.Trainer:
    store = agl.InMemoryLightningStore()
    return agl.Trainer(algorithm=algorithm, n_runners=matrix.RUNNERS, store=store, run_dir=run_dir)


def _end(metrics: dict[str, float]) -> dict[str, float]:
    return {"reward": metrics["val/reward"], "problems": metrics["val/n_rollouts"]}


def main() -> None:
    pieces: dict[str, Callable[[Path, int], dict[str, Any]]] = {
        "warm": warm_start,
        "start": start,
        "variance": variance,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("piece", choices=[*pieces, *matrix.ALGORITHMS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, default=matrix.HOME)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    began = time.perf_counter()
    with PeakRss() as rss:
        if args.piece in pieces:
            found = pieces[args.piece](args.home, args.seed)
        else:
            found = train(args.piece, args.home, args.seed)
        peak = rss.peak
    found |= {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time(), "peak_mib": peak}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(args.output)


if __name__ == "__main__":
    main()
