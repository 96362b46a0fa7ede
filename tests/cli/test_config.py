"""`agl config`: the resolved configuration, what a key means, the presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def test_a_configuration_is_printed_and_can_be_read_again(agl: Any) -> None:
    done = agl("config", "--config-name", "dapo", "data.train_batch_size=16", "actor_rollout_ref.rollout.name=vllm")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert shown["actor_rollout_ref"]["model"]["path"] == "???"
    assert shown["actor_rollout_ref"]["actor"]["clip_ratio_high"] == 0.28
    assert shown["data"]["train_batch_size"] == 16
    assert "actor_rollout_ref.rollout.name = 'vllm'" in done.stderr
    (agl.directory / "mine.yaml").write_text(done.stdout)
    again = agl("config", "--config-path", ".", "--config-name", "mine")
    assert again.stdout == done.stdout
    assert again.stderr == ""


def test_it_needs_no_torch_and_is_wrong_in_one_line(agl: Any) -> None:
    done = agl("config", "algorithm.adv_estimater=grpo", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 2
    assert done.stdout == ""
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "agentlightning.verl.config.compose" in loaded
    assert loaded & {"torch", "transformers", "starlette", "openai", "aiohttp"} == set()
    assert done.stderr.splitlines()[-1].startswith("error: unknown config key `algorithm.adv_estimater`")


def test_explain(agl: Any) -> None:
    done = agl("config", "--explain", "critic.optim.lr")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("critic.optim.lr\n")
    assert "Learning rate after warm-up." in done.stdout
    assert "1e-05" in done.stdout
    section = agl("config", "--explain", "algorithm.kl_ctrl")
    assert {"type", "kl_coef", "horizon", "target_kl"} <= {line.split(" ")[0] for line in section.stdout.splitlines()}
    wrong = agl("config", "--explain", "critic.optim.lrr")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: unknown config key `critic.optim.lrr`; did you mean `critic.optim.lr`")


def test_list_presets(agl: Any) -> None:
    done = agl("config", "--list-presets")
    assert done.returncode == 0, done.stderr
    assert {"ppo", "grpo", "dapo", "spin", "sppo", "clip_cov", "kl_cov"} <= {
        line.split(" ")[0] for line in done.stdout.splitlines()
    }


def test_a_run_can_start_from_a_preset_and_a_directory_needs_a_name(agl: Any, project: Path) -> None:
    words = ("train", "agents:chatty", "--run", "bad", "--train", "sums.jsonl")
    done = agl(*words, "--config-name", "gdpo", "actor_rollout_ref.model.path=x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: `algorithm.adv_estimator` is 'gdpo'; name the reward dimensions")
    nameless = agl(*words, "--config-path", ".")
    assert nameless.returncode == 2
    assert "`--config-name NAME`" in nameless.stderr
    assert not (project / "runs").exists()
