"""Whatever the algorithm remembers from step to step comes back after `kill -9`: the metrics are those of a run that
was left alone, bit for bit. The kill hits a step whose rollouts are half done, two steps after the last checkpoint."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl

from .letters import make_model, train

ROOT = Path(__file__).parents[2]
TIMES = ("timing_s/", "timing_per_token_ms/", "perf/throughput", "perf/time_per_step")
ACTOR = "actor_rollout_ref.actor"
SHORT: dict[str, Any] = {
    "actor_rollout_ref.rollout.n": 4,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
    "trainer.total_training_steps": 4,
    "trainer.save_freq": 2,
    "trainer.test_freq": -1,
    "trainer.val_before_train": False,
    "trainer.logger": [],
}
CASES: dict[str, dict[str, Any]] = {
    "a critic and an adaptive penalty": {
        "algorithm.adv_estimator": "gae",
        "algorithm.use_kl_in_reward": True,
        "algorithm.kl_ctrl.type": "adaptive",
        "algorithm.kl_ctrl.kl_coef": 0.1,
        "algorithm.kl_ctrl.horizon": 100,
        "critic.optim.lr": 1e-2,
    },
    "dynamic sampling": {
        "algorithm.filter_groups.enable": True,
        "algorithm.filter_groups.max_num_gen_batches": 4,
        "data.gen_batch_size": 3,
        f"{ACTOR}.clip_ratio_high": 0.28,
        f"{ACTOR}.shuffle": True,
    },
    "an adapter and a KL loss": {
        "actor_rollout_ref.model.lora_rank": 4,
        f"{ACTOR}.use_kl_loss": True,
        f"{ACTOR}.kl_loss_coef": 0.1,
        f"{ACTOR}.optim.lr_warmup_steps": 1,
        f"{ACTOR}.optim.lr_scheduler_type": "cosine",
    },
    "greedy baselines": {"algorithm.adv_estimator": "remax"},
    "a reference that follows, and earlier answers": {
        "algorithm.adv_estimator": None,
        f"{ACTOR}.policy_loss.loss_mode": "online_dpo",
        "trainer.ref_update_freq": 3,
        "agentlightning.spin_pairs": "previous",
    },
    "a curriculum and chosen tokens": {
        "agentlightning.curriculum": {"name": "success_rate"},
        f"{ACTOR}.policy_loss.loss_mode": "clip_cov",
        f"{ACTOR}.policy_loss.clip_cov_ratio": 0.1,
        f"{ACTOR}.policy_loss.clip_cov_lb": 0.0,
    },
    "rollouts drawn anew": {
        "algorithm.adv_estimator": "gae",
        "algorithm.use_pf_ppo": True,
        "critic.model.lora_rank": 2,
        "actor_rollout_ref.model.lora_rank": 2,
    },
}


def metrics_of(run_dir: Path) -> list[dict[str, float]]:
    """Metrics by step, times aside."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines]


def killed(run_dir: Path, model: Path, step: int, changes: dict[str, Any]) -> None:
    flags = ["--crash-at", str(step), "--config", json.dumps(changes)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.letters", str(run_dir), str(model), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


async def succeeded(run_dir: Path) -> list[tuple[Any, ...]]:
    """What names each training rollout that succeeded."""
    store = agl.SqlLightningStore(run_dir / "store.sqlite")
    try:
        rollouts = await store.query_rollouts(status_in=["succeeded"])
    finally:
        await store.close()
    names = ("step", "task", "sample")
    return sorted(tuple((r.metadata or {})[name] for name in names) for r in rollouts if r.mode == "train")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_a_killed_and_resumed_run_writes_the_metrics_of_one_left_alone(name: str, model: Path, tmp_path: Path) -> None:
    changes = {**SHORT, **CASES[name]}
    train(tmp_path / "whole", model, **changes)
    killed(tmp_path / "run", model, 4, changes)
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == [1, 2, 3]
    train(tmp_path / "run", model, resume=True, **changes)
    whole = metrics_of(tmp_path / "whole")
    assert metrics_of(tmp_path / "run") == whole
    assert any(row["actor/grad_norm"] > 0 for row in whole[2:]), "else nothing came back that could differ"
    assert asyncio.run(succeeded(tmp_path / "run")) == asyncio.run(succeeded(tmp_path / "whole")), "none ran twice"
