"""Presets and configuration files: what they choose, how they are layered, what is refused in them."""

from pathlib import Path
from typing import Any

import pytest

from agentlightning.learner.advantages import advantage_estimators
from agentlightning.learner.losses import policy_losses
from agentlightning.types import ConfigError
from agentlightning.verl.config import VerlConfig, load_config
from agentlightning.verl.config.presets import preset_names, preset_settings, preset_summary
from agentlightning.verl.config.schema import ESTIMATORS, POLICY_LOSSES, SELF_PLAY_LOSSES

BASE: dict[str, Any] = {"actor_rollout_ref.model.path": "some/model", "data.train_batch_size": 8}
NEEDS = {"gdpo": ["algorithm.gdpo_reward_keys=[right,short]"]}
"""What a preset can't know."""


def preset(name: str, *words: str) -> VerlConfig:
    return load_config([*NEEDS.get(name, []), *words], base=BASE, preset=name).config


def file(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_without_remarks_and_says_what_it_is(name: str):
    resolved = load_config(NEEDS.get(name, []), base=BASE, preset=name)
    assert [note for note in resolved.notes if note.kind != "replaced"] == []
    assert preset_summary(name).endswith((".", "`"))
    assert "arXiv" in preset_summary(name) or name in ("otb", "grpo_passk", "tis")


def test_presets_cover_the_family():
    configs = {name: preset(name) for name in preset_names()}
    assert {
        "ppo",
        "grpo",
        "drgrpo",
        "dapo",
        "rloo",
        "remax",
        "gpg",
        "opo",
        "gspo",
        "cispo",
        "sapo",
        "spin",
        "sppo",
    } <= {*configs}
    variants = {"grpo_vectorized", "rloo_vectorized", "tir_optimal_token_baseline"}
    assert {config.algorithm.adv_estimator for config in configs.values()} >= {*ESTIMATORS} - variants
    chosen = {config.loss_mode() for config in configs.values()}
    assert chosen >= {*POLICY_LOSSES, *SELF_PLAY_LOSSES} - {"dro", "reinforce", "bypass_mode"}


def test_what_the_papers_ask_for():
    dapo = preset("dapo", "data.max_response_length=20480")
    actor = dapo.actor_rollout_ref.actor
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio_c) == (0.2, 0.28, 10.0)
    assert dapo.reward.reward_kwargs.overlong_buffer_cfg.len == 4096
    assert dapo.algorithm.filter_groups.enable
    assert not dapo.needs_reference()
    assert preset("drgrpo").actor_rollout_ref.actor.loss_scale_factor == 512
    assert not preset("drgrpo").algorithm.norm_adv_by_std_in_grpo
    assert preset("opo").actor_rollout_ref.actor.ppo_mini_batch_size == 8
    assert preset("spin").trainer.ref_update_freq == 1
    assert preset("sppo").algorithm.adv_estimator is None
    assert preset("remax").algorithm.use_kl_in_reward
    assert preset("ppo").needs_critic()


def test_a_preset_goes_over_the_base_and_under_the_overrides():
    base = {**BASE, "algorithm.adv_estimator": "rloo", "actor_rollout_ref.rollout.n": 3}
    config = load_config(["actor_rollout_ref.rollout.n=2"], base=base, preset="grpo").config
    assert config.algorithm.adv_estimator == "grpo"
    assert config.actor_rollout_ref.rollout.n == 2


def test_names_that_come_with_the_package_are_those_of_the_learner():
    assert set(ESTIMATORS) <= set(advantage_estimators())
    assert set(POLICY_LOSSES) <= set(policy_losses())


def test_a_file_is_a_preset_with_defaults_of_its_own(tmp_path: Path):
    file(tmp_path / "common.yaml", "data:\n  train_batch_size: 4\ntrainer:\n  total_epochs: 2\n")
    mine = file(
        tmp_path / "mine.yaml",
        "hydra:\n  searchpath: [file://elsewhere]\ndefaults: [ppo_trainer, rloo, common, _self_]\n"
        "trainer: {total_epochs: 3}\nactor_rollout_ref.actor.optim.lr: 1e-5\n",
    )
    resolved = load_config(base=BASE, preset=mine)
    config = resolved.config
    assert config.algorithm.adv_estimator == "rloo"
    assert (config.data.train_batch_size, config.trainer.total_epochs) == (4, 3)
    assert config.actor_rollout_ref.actor.optim.lr == 1e-5
    assert [note.key for note in resolved.notes] == ["hydra.searchpath"]
    assert load_config(base=BASE, preset=tmp_path / "mine").config == config


def test_numbers_in_a_file_are_those_of_yaml_1_2(tmp_path: Path):
    mine = file(
        tmp_path / "a.yaml",
        "algorithm:\n  adv_estimator: rloo\n  rollout_correction:\n    rollout_is: token\n"
        "    rollout_is_threshold: 0.5_2\n  gamma: .5\ntrainer: {save_freq: -1}\n",
    )
    settings = preset_settings(mine).values
    assert settings["algorithm.rollout_correction.rollout_is_threshold"] == "0.5_2"
    assert (settings["algorithm.gamma"], settings["trainer.save_freq"]) == (0.5, -1)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("data:\n  seed: 1\n  shuffle: true\n  seed: 2\n", "line 4: `seed` is given twice (before in line 2)"),
        ("data: {seed: 1}\ndata: {seed: 1}\n", "line 2: `data` is given twice"),
        ("data: {seed: 1}\ndata.seed: 2\n", "`data.seed` is given twice (1 and 2)"),
        ("data: [1\n", "line 2 is no YAML"),
        ("- data\n", "holds no mapping"),
        ("defaults: [nothing]\n", "no preset 'nothing'"),
        ("defaults: [_self_, grpo]\n", "`_self_` must be the last"),
        ("defaults: [{model: x}]\n", "it lists names"),
        ("defaults: [self]\n", "among its own `defaults`"),
        ("data: {sead: 1}\n", "unknown config key `data.sead`"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, part: str):
    path = file(tmp_path / "self.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(base=BASE, preset=path)
    assert part in str(caught.value)


@pytest.mark.parametrize("name", ["dappo", "nowhere/dapo.yaml", "nowhere/dapo"])
def test_a_preset_that_is_not_there_is_an_error(name: str):
    with pytest.raises(
        ConfigError, match=r"no preset 'dappo'; presets: cispo|no configuration file|no preset 'nowhere"
    ):
        load_config(base=BASE, preset=name)
