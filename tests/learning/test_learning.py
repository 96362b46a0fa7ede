"""Every algorithm learns the bandit from three seeds: at least 0.15 on average, each by two standard errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .bandit import learn, score

SEEDS = (0, 1, 2)
LOSS = "actor_rollout_ref.actor.policy_loss"
CORRECTION = "algorithm.rollout_correction"
PRESETS: dict[str, dict[str, Any]] = {
    "ppo": {"critic.optim.lr": 1e-2},
    "pf_ppo": {"critic.optim.lr": 1e-2},
    "grpo": {},
    "drgrpo": {},
    "grpo_passk": {},
    "gdpo": {"algorithm.gdpo_reward_keys": ["early", "letter"]},
    "rloo": {},
    "reinforce_plus_plus": {},
    "reinforce_plus_plus_baseline": {},
    "remax": {"trainer.total_training_steps": 20},  # the greedy answer is a noisy baseline
    "opo": {"actor_rollout_ref.actor.ppo_mini_batch_size": 4},
    "gpg": {},
    "otb": {},
    "dapo": {
        "algorithm.filter_groups.metric": "reward",
        "reward.reward_kwargs.max_resp_len": 4,
        "reward.reward_kwargs.overlong_buffer_cfg.len": 2,
    },
    "gspo": {},
    "gmpo": {},
    "sapo": {},
    "cispo": {},
    "dppo_tv": {},
    "dppo_kl": {},
    "clip_cov": {f"{LOSS}.clip_cov_ratio": 0.05, f"{LOSS}.clip_cov_lb": 0.1},
    "kl_cov": {f"{LOSS}.kl_cov_ratio": 0.05},
    "tis": {},
    "spin": {},
    "sppo": {},
}
"""Changes to the values of each preset, which are for models a thousand times as large."""
OTHERS: dict[str, dict[str, Any]] = {
    "grpo_vectorized": {"algorithm.adv_estimator": "grpo_vectorized"},
    "rloo_vectorized": {"algorithm.adv_estimator": "rloo_vectorized"},
    "tir_optimal_token_baseline": {"algorithm.adv_estimator": "tir_optimal_token_baseline"},
    "dro": {"algorithm.adv_estimator": "grpo", f"{LOSS}.loss_mode": "dro", f"{LOSS}.dro_beta": 0.1},
    "reinforce": {
        "algorithm.adv_estimator": "grpo",
        f"{CORRECTION}.bypass_mode": True,
        f"{CORRECTION}.loss_type": "reinforce",
    },
    "adaptive_kl": {
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": True,
        "algorithm.kl_ctrl.type": "adaptive",
    },
    "entropy_bonus": {"algorithm.adv_estimator": "grpo", "actor_rollout_ref.actor.entropy_coeff": 0.001},
    # With the random embeddings frozen no hidden state earns more than 0.69, 0.82 and 0.74 (seeds 0, 1, 2) on average.
    "lora": {
        "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.model.lora_rank": 8,
        "trainer.total_training_steps": 18,
    },
    "curriculum": {"algorithm.adv_estimator": "grpo", "agentlightning.curriculum": {"name": "success_rate"}},
}
"""What has no preset of its own."""


@pytest.mark.learning
@pytest.mark.parametrize("name", [*PRESETS, *OTHERS])
def test_reward_rises(name: str, tmp_path: Path) -> None:
    changes, preset = (PRESETS[name], name) if name in PRESETS else (OTHERS[name], None)
    runs = [learn(changes, seed=seed, directory=tmp_path, preset=preset) for seed in SEEDS]
    report = [f"seed {seed}: {run.before.mean():.2f} + {run.gain:.2f}" for seed, run in zip(SEEDS, runs, strict=True)]
    assert [run.gain > 2 * run.error for run in runs] == [True] * len(SEEDS), report
    assert np.mean([run.gain for run in runs]) >= 0.15, report


def test_score_falls_along_the_alphabet() -> None:
    assert [score(text) for text in ("apple", " z", "k9", "Apple", "", "é", "7")] == [1, 0, 0.6, 0, 0, 0, 0]
