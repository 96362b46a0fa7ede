"""The whole story in one command: data, a tiny model, a warm start, reinforcement learning, and how much it helped.

    python -m examples.calc.train --seed 0 --run my-run
    python -m examples.calc.train --run my-run --resume          # goes on after a crash
    python -m examples.calc.train --model Qwen/Qwen2.5-0.5B-Instruct actor_rollout_ref.actor.optim.lr=1e-6

Each phase leaves its result in `runs/<run>/`; a resumed job skips the phases that are done.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

import agentlightning as agl
from agentlightning.algorithm.data import load_dataset
from agentlightning.report.metrics import read_metrics
from agentlightning.report.rss import PeakRss
from agentlightning.report.run import summarise, write_report
from agentlightning.trainer.run_dir import open_run
from agentlightning.verl.config import parse_overrides

from .agent import calc_agent
from .data import generate
from .demos import demonstrations

RUNNERS = 32
THREADS = 1

# Measured on 2 CPU cores; see README.md in this folder.
WARM_START = {
    "epochs": 1,
    "batch_size": 16,
    "lr": 1.5e-3,
    "weight_decay": 0.1,
    "warmup_ratio": 0.05,
    "token_budget": 2048,
    "save_every": 100,
}
RL: dict[str, Any] = {
    "algorithm.adv_estimator": "grpo",
    "data.train_batch_size": 16,
    "data.max_prompt_length": 192,
    "data.max_response_length": 32,
    "actor_rollout_ref.model.enable_gradient_checkpointing": False,
    "actor_rollout_ref.rollout.name": "native",
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.val_kwargs.temperature": 0.0,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
    "actor_rollout_ref.actor.optim.lr": 3e-4,
    "actor_rollout_ref.actor.clip_ratio_high": 0.28,
    "trainer.total_training_steps": 40,
    "trainer.test_freq": 5,
    "trainer.save_freq": 5,
    "trainer.logger": ["console", "file", "tensorboard"],
}

GIVEN_MODEL: dict[str, Any] = {
    "data.max_prompt_length": 1024,
    "data.max_response_length": 128,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.model.enable_gradient_checkpointing": True,
}
"""What changes for a model that was not made here: its template and its answers are longer, its steps smaller."""


class Job:
    """One run's directory, and what is known of it so far; survives a kill between any two phases."""

    def __init__(self, directory: Path, rss: PeakRss) -> None:
        self.directory = directory
        self.rss = rss
        self._file = directory / "progress.json"
        self.known: dict[str, Any] = orjson.loads(self._file.read_bytes()) if self._file.exists() else {}

    def save(self, **values: Any) -> None:
        """Remember `values`, and the peak memory so far."""
        self.known |= values
        self.known["peak_rss_mib"] = max(self.known.get("peak_rss_mib", 0.0), self.rss.peak)
        partial = self._file.with_suffix(".partial")
        partial.write_bytes(orjson.dumps(self.known, option=orjson.OPT_INDENT_2))
        partial.replace(self._file)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall time of a phase. What an execution that was killed spent in it is not known."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = self.known.get("wall_s_by_phase", {})
            self.save(wall_s_by_phase={**spent, phase: spent.get(phase, 0.0) + time.perf_counter() - started})

    def once(self, phase: str, work: Callable[[], dict[str, Any]]) -> None:
        """Run a phase unless an earlier execution finished it."""
        if phase not in self.known.get("done", []):
            with self.timed(phase):
                result = work()
            self.save(**result, done=[*self.known.get("done", []), phase])


def main() -> None:
    args = parse_args()
    directory = Path(args.runs_dir) / args.run
    if args.model and not args.resume:  # a mistyped path must not use up the run's name
        from agentlightning.inference.loading import load_model

        load_model(args.model)
    open_run(directory, resume=args.resume)
    with PeakRss() as rss:
        job = Job(directory, rss)
        settings = {"seed": args.seed, "model": args.model, "overrides": args.overrides}
        if job.known.setdefault("settings", settings) != settings:
            raise SystemExit(
                f"error: run `{directory}` was begun with {job.known['settings']}; resume it with the same"
            )
        run(job, args)


def run(job: Job, args: argparse.Namespace) -> None:
    """All phases, in order."""
    directory, data = job.directory, job.directory / "data"
    job.once("data", lambda: make_data(data, args.seed))
    train, val, test = (load_dataset(data / f"{split}.jsonl") for split in ("train", "val", "test"))
    tests = [{**row, "data_source": "test"} for row in test]
    tests += [{**row, "data_source": "test_unseen"} for row in load_dataset(data / "test_unseen.jsonl")]

    start = args.model
    if start is None:
        start = str(directory / "warm_start")
        job.once("warm_start", lambda: warm_start(directory, train, args.seed))
    job.once("test_before", lambda: evaluate(start, tests, directory / "test_before", "before", args))
    job.once("reinforcement", lambda: reinforce(start, train, val, directory, args))
    job.once("test_after", lambda: evaluate(job.known["checkpoint"], tests, directory / "test_after", "after", args))
    finish(job, args.seed)


def make_data(directory: Path, seed: int) -> dict[str, Any]:
    """Word problems with disjoint splits."""
    generate(seed=seed, n_train=8000, n_val=200, n_test=500, n_unseen=200, out_dir=directory)
    return {}


def warm_start(directory: Path, train: list[Any], seed: int) -> dict[str, Any]:
    """A tiny model, and fine-tuning on demonstrators who get most of the harder problems wrong in the same way."""
    from agentlightning.algorithm.sft import FinetuneConfig, finetune

    from .model import build

    model = directory / "init"
    if not model.exists():
        build(model, seed=seed)
    conversations = demonstrations(train, seed=seed)
    result = finetune(
        model, conversations, directory / "warm_start", FinetuneConfig(seed=seed, threads=THREADS, **WARM_START)
    )
    return {"warm_start_loss": result["train/loss"]}


def reinforce(
    start: str, train: list[Any], val: list[Any], directory: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """GRPO on the agent's own rollouts."""
    algorithm = agl.VERL({**config(start, args), "trainer.val_before_train": True})
    trainer = agl.Trainer(algorithm=algorithm, n_runners=RUNNERS, run_dir=directory)
    trainer.fit(calc_agent, train, val_dataset=val, resume=True)
    came_to = summarise(algorithm.history)
    kept = ("val_reward_before", "val_reward_after", "steps", "rollouts", "tokens")
    return {**{key: came_to[key] for key in kept}, "checkpoint": f"{algorithm.checkpoint}/actor/huggingface"}


def evaluate(model: str, tasks: list[Any], directory: Path, when: str, args: argparse.Namespace) -> dict[str, Any]:
    """Greedy reward on held-out problems: the same agent, gateway and engine as in training."""
    algorithm = agl.VERL({**config(model, args), "trainer.val_only": True, "trainer.logger": ["console"]})
    trainer = agl.Trainer(algorithm=algorithm, n_runners=RUNNERS, run_dir=directory)
    trainer.fit(calc_agent, val_dataset=tasks, resume=directory.exists())
    metrics = algorithm.history[0]
    return {
        f"test_reward_{when}": metrics["val-core/test/reward/mean@1"],
        f"test_unseen_reward_{when}": metrics["val-core/test_unseen/reward/mean@1"],
    }


def config(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """verl's keys for this job; what the user gave on the command line wins."""
    return {
        **RL,
        **(GIVEN_MODEL if args.model else {}),
        "actor_rollout_ref.model.path": model,
        "agentlightning.seed": args.seed,
        "agentlightning.threads": THREADS,
        **parse_overrides(args.overrides),
    }


def finish(job: Job, seed: int) -> None:
    """Summary, picture and table."""
    known = job.known
    keys = ("val_reward", "test_reward", "test_unseen_reward")
    summary = {
        "seed": seed,
        **{f"{key}_{when}": known[f"{key}_{when}"] for key in keys for when in ("before", "after")},
        **{key: known[key] for key in ("steps", "rollouts", "tokens", "checkpoint", "wall_s_by_phase")},
        "wall_s": sum(known["wall_s_by_phase"].values()),
        "peak_rss_mib": known["peak_rss_mib"],
    }
    write_report(
        job.directory,
        summary,
        read_metrics(job.directory),
        title="A calculator agent learns with GRPO",
        before=known["test_reward_before"],
        after=known["test_reward_after"],
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.calc.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data, model and sampling (default 0)")
    parser.add_argument("--run", default=None, help="name of the run (default calc-seed<SEED>)")
    parser.add_argument("--runs-dir", default="runs", help="where runs live (default runs/)")
    parser.add_argument("--resume", action="store_true", help="go on with an existing run")
    parser.add_argument("--model", default=None, help="start from this model instead of a tiny one made here")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="verl configuration keys")
    args = parser.parse_args()
    args.run = args.run or f"calc-seed{args.seed}"
    if Path(args.run).name != args.run:
        parser.error(f"--run {args.run!r} is not a plain name; --runs-dir says where runs live")
    bad = [override for override in args.overrides if "=" not in override]
    if bad:
        parser.error(f"{bad[0]!r} is not `key=value`")
    return args


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        main()
    except agl.AgentLightningError as error:
        raise SystemExit(f"error: {error}") from error
