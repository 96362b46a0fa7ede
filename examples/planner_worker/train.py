"""Two tiny models, each warm-started on demonstrations of its own part, learn together from one reward.

    python -m examples.planner_worker.train --seed 0
    python -m examples.planner_worker.train --freeze worker      # only the planner learns
    python -m examples.planner_worker.train --run my-run --resume

Everything runs on a CPU in a few minutes; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.verl.config import parse_overrides

from .agent import depot_agent
from .data import moves, orders, plans, vocabulary

ROLES = ("planner", "worker")
DEMONSTRATIONS = 4800
RUNNERS = 16
WARM_START: dict[str, Any] = {
    "batch_size": 16,
    "lr": 3e-3,
    "weight_decay": 0.1,
    "save_every": 1000,
    "threads": 1,
}
RL: dict[str, Any] = {
    "algorithm.adv_estimator": "grpo",
    "data.train_batch_size": 16,
    "data.max_prompt_length": 48,
    "data.max_response_length": 4,
    "actor_rollout_ref.model.enable_gradient_checkpointing": False,
    "actor_rollout_ref.rollout.name": "native",
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
    "actor_rollout_ref.actor.optim.lr": 1.5e-3,
    "trainer.total_training_steps": 20,
    "trainer.test_freq": 5,
    "trainer.save_freq": 10,
    "trainer.logger": ["console", "file"],
    "agentlightning.threads": 1,
}


def main() -> None:
    args = parse_args()
    directory = Path(args.runs_dir) / args.run
    folder = Path(args.runs_dir) / f"planner-worker-models-seed{args.seed}"
    models = {role: warm_start(role, folder, args.seed) for role in ROLES}
    algorithm = train(models, directory, args.seed, args.freeze, parse_overrides(args.overrides), resume=args.resume)
    before, after = (row["val/reward"] for row in (algorithm.history[0], algorithm.history[-1]))
    print(f"reward on unseen orders: {before:.2f} -> {after:.2f}")


def warm_start(role: str, directory: Path, seed: int, demonstrations: int = DEMONSTRATIONS) -> Path:
    """A tiny model that imitates the people who do `role`'s part; made once, then kept in `directory`."""
    from agentlightning.algorithm.sft import FinetuneConfig, finetune

    start, result = directory / f"{role}-init", directory / role
    if result.exists():
        return result
    if not start.exists():
        # The two must not be twins: each has its own weights.
        agl.tiny_model(
            start,
            vocabulary(),
            hidden_size=64,
            num_layers=2,
            intermediate_size=192,
            vocab_size=512,
            seed=2 * seed + ROLES.index(role),
        )
    parts = {
        "planner": lambda: plans(orders("train", demonstrations, seed), seed),
        "worker": lambda: moves(demonstrations, seed),
    }
    shown = [conversation(*pair) for pair in parts[role]()]
    finetune(start, shown, result, FinetuneConfig(seed=seed, **WARM_START))
    return result


def conversation(asked: str, said: str) -> dict[str, Any]:
    """A demonstration in the OpenAI format."""
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}


def train(
    models: dict[str, Path],
    directory: Path,
    seed: int,
    freeze: str | None,
    changes: dict[str, Any],
    *,
    resume: bool = False,
) -> agl.VERL:
    """GRPO on the agent's own rollouts: both policies, each on the tokens that it sampled."""
    algorithm = agl.VERL({**config(models, seed, freeze), **changes})
    trainer = agl.Trainer(algorithm=algorithm, n_runners=RUNNERS, run_dir=directory)
    trainer.fit(depot_agent, orders("train", 800, seed + 1), val_dataset=orders("test", 160, seed), resume=resume)
    return algorithm


def config(models: dict[str, Path], seed: int, freeze: str | None) -> dict[str, Any]:
    """verl's keys for this job: the common ones, and what each policy has of its own."""
    policies = {
        role: {"trainable": role != freeze, "actor_rollout_ref": {"model": {"path": str(models[role])}}}
        for role in ROLES
    }
    return {**RL, "agentlightning.seed": seed, "agentlightning.policies": policies}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.planner_worker.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data, models and sampling (default 0)")
    parser.add_argument("--freeze", choices=ROLES, default=None, help="serve this policy, but don't train it")
    parser.add_argument("--run", default=None, help="name of the run (default planner-worker-seed<SEED>[-no-ROLE])")
    parser.add_argument("--runs-dir", default="runs", help="where runs live (default runs/)")
    parser.add_argument("--resume", action="store_true", help="go on with an existing run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="verl configuration keys")
    args = parser.parse_args()
    args.run = args.run or f"planner-worker-seed{args.seed}" + (f"-no-{args.freeze}" if args.freeze else "")
    return args


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        main()
    except agl.AgentLightningError as error:
        raise SystemExit(f"error: {error}") from error
