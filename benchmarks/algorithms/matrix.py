"""What is compared: the algorithms, with the settings that they share and those that make each what it is.

Read by all other files here. An algorithm is its preset, as a user gets it, on one batch size, group size, learning
rate and number of steps; `overrides` are the few values that a preset made for billions of tokens can't keep here, each
with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOME = Path("runs/bench-algorithms")
SEEDS = (0, 1, 2)
QUICK = ("grpo", "rloo", "ppo")
TEST_PROBLEMS = 400
"""Held-out problems, answered greedily before and after: a standard error of 0.025 at one half."""
THRESHOLD = 0.8
"""Mean sampled reward of the last `WINDOW` rollouts; the rollouts until there measure sample efficiency."""
WINDOW = 640
"""Rollouts of 80 tasks, five steps. The tasks of one step differ enough to move its mean by 0.08."""
STEPS = 14
RUNNERS = 32
THREADS = 1

COMMON: dict[str, Any] = {
    "data.train_batch_size": 16,
    "data.max_prompt_length": 192,
    "data.max_response_length": 32,
    "actor_rollout_ref.model.enable_gradient_checkpointing": False,
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.val_kwargs.temperature": 0.0,
    "actor_rollout_ref.rollout.val_kwargs.do_sample": False,
    "actor_rollout_ref.rollout.val_kwargs.top_p": 1.0,
    # Two updates a step: with one every policy ratio is 1, and most losses would be the same.
    "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
    "actor_rollout_ref.actor.optim.lr": 3e-4,
    "trainer.val_before_train": False,
    "trainer.test_freq": -1,
    "trainer.save_freq": -1,
    "trainer.logger": [],
    "agentlightning.threads": THREADS,
}
CRITIC: dict[str, Any] = {
    "critic.model.enable_gradient_checkpointing": False,
    "critic.ppo_mini_batch_size": 8,
    "critic.optim.lr": 1e-3,
}


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One row of the table."""

    title: str
    preset: str | None
    """`None`: supervised."""
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])
    critic: bool = False
    after_sft: bool = False
    """Starts from the fine-tuned model of the same seed instead of the warm start."""
    steps: int = STEPS

    def settings(self, model: str, seed: int) -> dict[str, Any]:
        """The configuration over its preset."""
        return {
            **COMMON,
            **(CRITIC if self.critic else {}),
            "trainer.total_training_steps": self.steps,
            **self.overrides,
            "actor_rollout_ref.model.path": model,
            "agentlightning.seed": seed,
        }


_POLICY_LOSS = "actor_rollout_ref.actor.policy_loss"
ALGORITHMS: dict[str, Algorithm] = {
    "sft": Algorithm("SFT", None),
    "ppo": Algorithm("PPO", "ppo", critic=True),
    "grpo": Algorithm("GRPO", "grpo"),
    "dapo": Algorithm(
        "DAPO",
        "dapo",
        # Up to three times the rollouts of a step, so half as many steps.
        {"algorithm.filter_groups.max_num_gen_batches": 3},
        steps=STEPS // 2,
    ),
    "rloo": Algorithm("RLOO", "rloo"),
    "remax": Algorithm("ReMax", "remax"),
    "reinforce_plus_plus": Algorithm("REINFORCE++", "reinforce_plus_plus"),
    "reinforce_plus_plus_baseline": Algorithm("REINFORCE++-baseline", "reinforce_plus_plus_baseline"),
    "spin": Algorithm("SPIN", "spin"),
    "sppo": Algorithm("SPPO", "sppo"),
    # A mini-batch has a thousand tokens; of the recipe's share there would be none.
    "clip_cov": Algorithm("Clip-Cov", "clip_cov", {f"{_POLICY_LOSS}.clip_cov_ratio": 0.02}),
    "kl_cov": Algorithm("KL-Cov", "kl_cov", {f"{_POLICY_LOSS}.kl_cov_ratio": 0.02}),
    "gspo": Algorithm("GSPO", "gspo"),
    "drgrpo": Algorithm("Dr.GRPO", "drgrpo"),
    "sft_ppo": Algorithm("SFT -> PPO", "ppo", critic=True, after_sft=True),
}
ENTROPY = ("grpo", "clip_cov", "kl_cov")
"""Those whose entropy and reward are compared."""


def result_file(home: Path, name: str, seed: int) -> Path:
    """Where a finished run of an algorithm is written down."""
    return home / "results" / f"{name}-seed{seed}.json"


def start_of(home: Path, name: str, seed: int) -> Path:
    """The model that an algorithm begins with."""
    return sft_model(home, seed) if ALGORITHMS[name].after_sft else home / "warm_start"


def sft_model(home: Path, seed: int) -> Path:
    """What more fine-tuning made of the warm start."""
    return home / "sft" / f"seed{seed}"
