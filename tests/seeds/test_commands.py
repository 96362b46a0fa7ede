"""The commands and configurations of document 003, run as they stand but for the changes in `samples`.

The lines of a shell sample are run here in the process, so that torch is loaded once.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlightning.types import ConfigError
from agentlightning.verl.config import load_config
from agentlightning.verl.config.names import fields

from .conftest import GSM8K, MATH, write_rows
from .samples import SAMPLES, TINY

ROOT = Path(__file__).parents[2]
ESTIMATOR, LOSS = "algorithm.adv_estimator", "actor_rollout_ref.actor.policy_loss.loss_mode"


def shell(text: str) -> None:
    """Run a shell sample: Python modules and files; what is exported is for clusters and changes nothing here."""
    for line in text.replace("\\\n", " ").splitlines():
        words = [os.path.expandvars(word) for word in shlex.split(line, comments=True)]
        if not words or words[0] == "export":
            continue
        assert words[0] == "python3", f"not a line that can be run here: {line}"
        if words[1] == "-m":
            importlib.import_module(words[2]).main([os.path.expanduser(word) for word in words[3:]])
        else:  # a file of the repository
            subprocess.run([sys.executable, ROOT / words[1], *map(os.path.expanduser, words[2:])], check=True)


def selection(text: str, *more: str) -> dict[str, Any]:
    """Train with the words of a sample that only selects an algorithm; returns the run's configuration."""
    write_rows(Path("raw"), GSM8K)
    shell(f"python3 -m examples.data_preprocess.gsm8k --local_dataset_path raw --local_save_dir {Path('data/gsm8k')}")
    data = "data.train_files=data/gsm8k/train.parquet actor_rollout_ref.rollout.n=4"
    shell(f"python3 -m agentlightning.verl.main_ppo {text.strip()} {data} {TINY} {' '.join(more)}")
    return trained()


def trained(experiment: str = "gsm8k") -> dict[str, Any]:
    """The settings of a run, by full name; it must have made a step."""
    directory = Path("runs/verl_examples") / experiment
    *_, last = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    assert last["step"] == 1
    assert 0 < last["actor/grad_norm"] < math.inf
    assert last["training/n_rollouts_failed"] == 0
    return flat(json.loads((directory / "config.json").read_text())["config"])


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.parametrize("name", ["rloo", "remax", "reinforce-plus-plus", "reinforce-plus-plus-baseline"])
def test_one_word_selects_an_estimator(name):
    config = selection(SAMPLES[f"003-{name}"].text)
    assert config[ESTIMATOR] == name.replace("-", "_")
    assert config["critic.enable"] is None


def test_the_whole_rloo_command(raw):
    write_rows(raw, GSM8K)
    shell(f"python3 -m examples.data_preprocess.gsm8k --local_dataset_path {raw}")
    shell(SAMPLES["003-rloo-command"].text)
    config = trained()
    assert config[ESTIMATOR] == "rloo"
    assert (config["data.train_batch_size"], config["actor_rollout_ref.rollout.n"]) == (512, 8)


def test_the_dapo_quickstart(raw):
    write_rows(raw, MATH)
    shell(SAMPLES["003-dapo-quickstart"].text)
    config = trained()
    assert config["actor_rollout_ref.actor.clip_ratio_high"] == 0.28
    assert config["algorithm.filter_groups.enable"] is True


def files(text: str, directory: Path) -> list[Path]:
    """The three parts of DAPO's configuration as files that build on each other; as one it would have a key twice."""
    paths: list[Path] = []
    for number, part in enumerate(text.split("\n\n")):
        paths.append(directory / f"part{number}.yaml")
        below = paths[number - 1].stem if number else "dapo"
        paths[number].write_text(f"defaults: [{below}, _self_]\n{part}\n")
    assert len(paths) == 3
    return paths


def test_dapos_configuration_means_what_it_says(home):
    *_, last = files(SAMPLES["003-dapo-config"].original, home)
    config = load_config({"actor_rollout_ref.model.path": "model"}, preset=last).config
    actor, filtered = config.actor_rollout_ref.actor, config.algorithm.filter_groups
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.28)
    assert (config.data.gen_batch_size, config.data.train_batch_size) == (1536, 512)
    assert (filtered.enable, filtered.metric, filtered.max_num_gen_batches) == (True, "acc", 10)
    overlong = config.reward.reward_kwargs.overlong_buffer_cfg
    assert (overlong.enable, overlong.len, overlong.penalty_factor) == (True, 4096, 1.0)
    assert config.data.max_response_length == 20480


def test_dapos_configuration_trains(home):
    *_, last = files(SAMPLES["003-dapo-config"].text, home)
    config = selection(f"--config-name {last}")
    assert config["data.gen_batch_size"] == 8
    assert config["reward.reward_kwargs.overlong_buffer_cfg.len"] == 2


def test_dapos_configuration_in_one_file_has_a_key_twice(home):
    path = home / "whole.yaml"
    path.write_text(SAMPLES["003-dapo-config"].original)
    with pytest.raises(ConfigError, match="`data` is given twice"):
        load_config({"actor_rollout_ref.model.path": "model"}, preset=path)


def test_spin(raw):
    write_rows(raw, GSM8K)
    shell(SAMPLES["003-spin"].text)
    assert trained()[LOSS] == "online_dpo"


@pytest.mark.parametrize("word", ["algorithm.dpo_beta=0.3", "algorithm.dpo_loss_type=ipo", "trainer.ref_update_freq=0"])
def test_spins_parameters_are_used(word):
    key, _, value = word.partition("=")
    assert key in fields()
    config = selection("--config-name spin", word)
    assert str(config[key]) == value


def test_sppo(raw):
    write_rows(raw, MATH)
    shell(SAMPLES["003-sppo"].text)
    assert trained()[LOSS] == "sppo"


def test_kl_cov(raw):
    write_rows(raw, MATH)
    shell(f"python3 -m examples.data_preprocess.math_dataset --local_dataset_path {raw}")
    shell(SAMPLES["003-kl-cov"].text)
    ratio = "actor_rollout_ref.actor.policy_loss.kl_cov_ratio"
    assert [(trained(name)[LOSS], trained(name)[ratio]) for name in ("7b", "32b")] == [
        ("kl_cov", 0.002),
        ("kl_cov", 0.0002),
    ]


@pytest.mark.parametrize(("preset", "estimator", "loss"), [("ppo", "gae", "vanilla"), ("clip_cov", "grpo", "clip_cov")])
def test_what_the_document_names_without_a_sample(preset, estimator, loss):
    config = selection(f"--config-name {preset}")
    assert (config[ESTIMATOR], config[LOSS]) == (estimator, loss)
