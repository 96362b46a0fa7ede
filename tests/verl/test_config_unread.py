"""Keys that were set but that nothing reads under the other settings are told, and keys that are read are not."""

import inspect
from typing import Any

import pytest
import torch

from agentlightning.learner.advantages import compute_advantages
from agentlightning.learner.correction import RS_OPTIONS
from agentlightning.verl.config import load_config
from agentlightning.verl.config.names import ADDED_KEYS, fields, verl_defaults
from agentlightning.verl.config.rules import matches
from agentlightning.verl.config.schema import ESTIMATORS
from agentlightning.verl.config.schema.correction import REJECTIONS
from agentlightning.verl.config.schema.optim import OPTIMIZERS, WITH_BETAS
from agentlightning.verl.config.unread import TABLE

BASE: dict[str, Any] = {"actor_rollout_ref.model.path": "some/model", "actor_rollout_ref.rollout.n": 8}
ACTOR = "actor_rollout_ref.actor"
LOSS = f"{ACTOR}.policy_loss"


def silent(*words: str) -> dict[str, str]:
    return {note.key: note.instead for note in load_config(list(words), base=BASE).notes if note.kind == "no_effect"}


@pytest.mark.parametrize(
    ("word", "switch"),
    [
        ("algorithm.gamma=0.9", "algorithm.adv_estimator=gae"),
        ("algorithm.gamma=0.9", "algorithm.adv_estimator=reinforce_plus_plus"),
        ("algorithm.lam=0.9", "algorithm.adv_estimator=gae"),
        ("algorithm.norm_adv_by_std_in_grpo=false", "algorithm.adv_estimator=grpo_passk"),
        ("algorithm.kl_penalty=k3", "algorithm.use_kl_in_reward=true"),
        ("algorithm.filter_groups.metric=acc", "algorithm.filter_groups.enable=true"),
        ("algorithm.rollout_correction.rollout_is_threshold=3.0", "algorithm.rollout_correction.rollout_is=token"),
        ("algorithm.rollout_correction.loss_type=reinforce", "algorithm.rollout_correction.bypass_mode=true"),
        ("algorithm.dpo_beta=0.2", f"{LOSS}.loss_mode=online_dpo"),
        ("algorithm.sppo_eta=0.2", f"{LOSS}.loss_mode=sppo"),
        (f"{ACTOR}.tau_pos=2.0", f"{LOSS}.loss_mode=sapo"),
        (f"{LOSS}.clip_cov_ratio=0.1", f"{LOSS}.loss_mode=clip_cov"),
        (f"{LOSS}.ppo_kl_coef=0.5", f"{LOSS}.loss_mode=kl_cov"),
        (f"{ACTOR}.clip_ratio_c=5.0", f"{LOSS}.loss_mode=dppo_tv"),
        (f"{ACTOR}.kl_loss_coef=0.1", f"{ACTOR}.use_kl_loss=true"),
        (f"{ACTOR}.loss_scale_factor=8.0", f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm"),
        ("trainer.ref_update_freq=5", f"{ACTOR}.use_kl_loss=true"),
        ("critic.optim.lr=1e-4", "algorithm.adv_estimator=gae"),
        ("trainer.critic_warmup=5", "critic.enable=true"),
        ("actor_rollout_ref.model.lora_alpha=32", "actor_rollout_ref.model.lora_rank=8"),
        ("critic.model.lora_alpha=32", "critic.model.lora_rank=8 critic.enable=true"),
        ("reward.reward_kwargs.max_resp_len=400", "reward.reward_kwargs.overlong_buffer_cfg.enable=true"),
        ("reward.custom_reward_function.name=score", "reward.custom_reward_function.path=reward.py"),
        ("trainer.resume_from_path=a/global_step_1", "trainer.resume_mode=resume_path"),
        ("trainer.log_val_generations=3", "trainer.logger=[tensorboard]"),
        ("actor_rollout_ref.rollout.val_kwargs.temperature=1.0", "actor_rollout_ref.rollout.val_kwargs.do_sample=true"),
        (f"{ACTOR}.data_loader_seed=7", f"{ACTOR}.shuffle=true"),
        (f"{ACTOR}.optim.min_lr_ratio=0.1", f"{ACTOR}.optim.lr_scheduler_type=cosine"),
        (f"{ACTOR}.optim.total_training_steps=9", f"{ACTOR}.optim.lr_warmup_steps_ratio=0.1"),
    ],
)
def test_a_key_is_silent_until_something_reads_it(word: str, switch: str):
    elsewhere = ["algorithm.adv_estimator=rloo", f"{LOSS}.loss_mode=gpg"]
    key = word.partition("=")[0]
    assert key in silent(*elsewhere, word)
    switched = {item.partition("=")[0] for item in switch.split()}
    if "algorithm.rollout_correction.bypass_mode" in switched:
        switched.add(f"{LOSS}.loss_mode")  # it chooses the loss itself
    others = [item for item in elsewhere if item.partition("=")[0] not in switched]
    assert key not in silent(*others, word, *switch.split())


def test_defaults_and_features_switched_off_are_not_worth_a_word():
    words = [
        "algorithm.adv_estimator=grpo",
        "algorithm.gamma=1.0",
        f"{ACTOR}.kl_loss_coef=0.001",
        "critic.enable=false",
    ]
    assert silent(*words) == {}
    assert silent(f"{LOSS}.loss_mode=sppo", "algorithm.adv_estimator=null") == {}
    assert silent(f"{LOSS}.loss_mode=sppo", "algorithm.adv_estimator=grpo") == {
        "algorithm.adv_estimator": "the loss `sppo` needs no advantages"
    }


def test_rule_keys_whose_feature_is_off_are_said_to_have_no_effect():
    words = ["algorithm.adv_estimator=grpo", "critic.strategy=fsdp2", "actor_rollout_ref.ref.strategy=fsdp2"]
    assert silent(*words) == {
        "critic.strategy": "there is no critic",
        "actor_rollout_ref.ref.strategy": "there is no reference model: KL terms are off",
    }
    assert silent("critic.strategy=fsdp2") == {}


def test_every_row_is_about_keys_that_exist():
    names = {*fields(), *verl_defaults(), *ADDED_KEYS}
    for row in TABLE:
        for pattern in row.keys:
            assert any(matches(pattern, name) for name in names), pattern


def test_the_ways_to_reject_are_those_of_the_learner():
    assert set(REJECTIONS) == set(RS_OPTIONS)


def test_the_table_knows_which_estimator_reads_which_key():
    """Against the estimators themselves: does another value change the advantages?"""
    torch.manual_seed(0)
    rewards = torch.randn(8, 4)
    columns: dict[str, Any] = {
        "token_level_rewards": rewards,
        "response_mask": torch.ones(8, 4),
        "index": [0, 0, 0, 0, 1, 1, 1, 1],
        "values": torch.randn(8, 4),
        "reward_baselines": torch.randn(8),
        "old_log_probs": -torch.rand(8, 4),
        "sum_pi_squared": torch.rand(8, 4),
        "a": rewards,
    }
    for key, default, other in (("gamma", 1.0, 0.5), ("lam", 1.0, 0.5), ("norm_adv_by_std_in_grpo", True, False)):
        for name in ESTIMATORS:
            found = [
                compute_advantages(name, **columns, config={"gdpo_reward_keys": ["a"], key: value})[0]
                for value in (default, other)
            ]
            words = [f"algorithm.adv_estimator={name}", f"algorithm.{key}={other}", "algorithm.gdpo_reward_keys=[a]"]
            assert torch.equal(*found) == (f"algorithm.{key}" in silent(*words)), (key, name)


@pytest.mark.parametrize(
    ("word", "switch"),
    [
        ("trainer.total_epochs=7", "trainer.total_training_steps=3"),
        ("data.seed=7", "data.shuffle=false"),
        (f"{ACTOR}.optim.betas=[0.8,0.9]", f"{ACTOR}.optim.optimizer=SGD"),
    ],
)
def test_a_key_is_read_until_another_takes_its_place(word: str, switch: str):
    key = word.partition("=")[0]
    assert key not in silent("algorithm.adv_estimator=rloo", word)
    assert key in silent("algorithm.adv_estimator=rloo", word, switch)


def test_optimizers_with_betas_are_those_that_take_them():
    takes = [name for name in OPTIMIZERS if "betas" in inspect.signature(getattr(torch.optim, name)).parameters]
    assert takes == list(WITH_BETAS)
