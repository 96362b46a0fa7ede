"""Several policies in one configuration: each the common settings with its own over them."""

from typing import Any

import pytest

from agentlightning.types import ConfigError
from agentlightning.verl.config import ResolvedConfig, VerlConfig, load_config
from agentlightning.verl.config.schema import MAIN_POLICY

COMMON: dict[str, Any] = {
    "algorithm.adv_estimator": "grpo",
    "actor_rollout_ref": {"model": {"path": "common"}, "rollout": {"n": 4}, "actor": {"clip_ratio_high": 0.3}},
}


def load(*words: str, **policies: Any) -> ResolvedConfig:
    given = {"agentlightning": {"policies": policies}} if policies else None
    return load_config(list(words) or given, base=COMMON)


def error_of(*words: str, **policies: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*words, **policies)
    return str(caught.value)


def test_without_any_there_is_the_main_one():
    config = load().config
    assert list(config.policies()) == [MAIN_POLICY]
    only = config.policies()[MAIN_POLICY]
    assert only.trainable
    assert only.actor_rollout_ref == config.actor_rollout_ref
    assert only.critic == config.critic


def test_each_has_its_own_over_the_common_ones():
    resolved = load(
        planner={"actor_rollout_ref": {"model": {"path": "big", "lora_rank": 8}, "actor": {"optim": {"lr": 1e-4}}}},
        worker={"trainable": False, "actor_rollout_ref.rollout.max_num_seqs": 7},
        third={},
    )
    planner, worker, third = resolved.config.policies().values()
    assert list(resolved.config.policies()) == ["planner", "worker", "third"]
    assert (planner.trainable, worker.trainable, third.trainable) == (True, False, True)
    assert planner.actor_rollout_ref.model.path == "big"
    assert worker.actor_rollout_ref.model.path == third.actor_rollout_ref.model.path == "common"
    assert planner.actor_rollout_ref.actor.optim.lr == 1e-4
    assert worker.actor_rollout_ref.actor.optim.lr == 1e-6
    assert worker.actor_rollout_ref.rollout.max_num_seqs == 7
    for policy in (planner, worker, third):
        assert policy.actor_rollout_ref.actor.clip_ratio_high == 0.3
        assert policy.actor_rollout_ref.rollout.n == 4
    assert resolved.notes == []


def test_command_line_and_mapping_give_the_same():
    words = [
        "+agentlightning.policies.planner.actor_rollout_ref.actor.optim.clip_grad=0.5",
        "+agentlightning.policies.planner.actor_rollout_ref.actor.clip_ratio=0.1",
        "+agentlightning.policies.planner.critic.ppo_epochs=2",
        "+agentlightning.policies.worker.trainable=false",
    ]
    tree = {
        "planner": {
            "actor_rollout_ref": {"actor": {"grad_clip": 0.5, "clip_ratio": 0.1}},
            "critic": {"ppo_epochs": 2},
        },
        "worker": {"trainable": False},
    }
    from_words, from_tree = load(*words).config, load(**tree).config
    assert from_words == from_tree
    actor = from_words.policies()["planner"].actor_rollout_ref.actor
    assert (actor.grad_clip, actor.clip_ratio_low, actor.clip_ratio_high) == (0.5, 0.1, 0.1)


def test_a_model_for_each_is_enough():
    policies = {name: {"actor_rollout_ref.model.path": name} for name in ("a", "b")}
    config = load_config({"agentlightning": {"policies": policies}}).config
    assert [policy.actor_rollout_ref.model.path for policy in config.policies().values()] == ["a", "b"]


def test_a_configuration_with_policies_comes_back_from_its_dump():
    config = load(planner={"actor_rollout_ref.actor.ppo_epochs": 2}, worker={}).config
    assert VerlConfig.model_validate(config.model_dump()) == config


def test_which_models_a_policy_needs():
    config = load(
        planner={"actor_rollout_ref.actor.use_kl_loss": True, "critic.enable": True},
        worker={"actor_rollout_ref.actor.policy_loss.loss_mode": "sppo"},
    ).config
    planner, worker = config.policies().values()
    assert (config.needs_reference(planner), config.needs_reference(worker)) == (True, False)
    assert (config.needs_critic(planner), config.needs_critic(worker)) == (True, False)
    assert (config.loss_mode(planner), config.loss_mode(worker)) == ("vanilla", "sppo")


def test_answers_name_the_policy():
    resolved = load(
        planner={
            "actor_rollout_ref.rollout.gpu_memory_utilization": 0.6,
            "actor_rollout_ref.actor.kl_loss_coef": 0.1,
        },
        worker={},
    )
    assert {note.key: note.kind for note in resolved.notes} == {
        "agentlightning.policies.planner.actor_rollout_ref.rollout.gpu_memory_utilization": "replaced",
        "agentlightning.policies.planner.actor_rollout_ref.actor.kl_loss_coef": "no_effect",
    }


def test_a_common_key_is_silent_only_if_no_policy_reads_it():
    words = ["actor_rollout_ref.actor.kl_loss_coef=0.1", "agentlightning.policies.worker={}"]
    use = "agentlightning.policies.planner.actor_rollout_ref.actor.use_kl_loss"
    assert [note.key for note in load(*words, f"{use}=false").notes] == ["actor_rollout_ref.actor.kl_loss_coef"]
    assert load(*words, f"{use}=true").notes == []


def test_settings_that_fit_every_policy_need_not_fit_each_other():
    sppo = {"actor_rollout_ref.actor.policy_loss.loss_mode": "sppo"}
    config = load_config(
        {"agentlightning": {"policies": {"a": sppo, "b": sppo}}}, base={**COMMON, "algorithm.adv_estimator": None}
    ).config
    assert config.algorithm.adv_estimator is None


def test_what_is_wrong_with_all_policies_is_said_once_and_else_by_name():
    wrong = {**COMMON, "actor_rollout_ref.actor.policy_loss.loss_mode": "dro"}
    with pytest.raises(ConfigError) as caught:
        load_config({"agentlightning": {"policies": {"a": {}, "b": {}}}}, base=wrong)
    assert str(caught.value).startswith("`actor_rollout_ref.actor.policy_loss.loss_mode` is 'dro'")
    beta = {"actor_rollout_ref.actor.policy_loss.dro_beta": 1.0}
    with pytest.raises(ConfigError) as caught:
        load_config({"agentlightning": {"policies": {"a": {}, "b": beta}}}, base=wrong)
    assert str(caught.value).startswith("policy `a`: `actor_rollout_ref.actor.policy_loss.loss_mode` is 'dro'")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("policies", "part"),
    [
        ({"a": {"actor_rollout_ref.actor.optim.lrr": 1}}, "policy `a`: unknown config key `actor_rollout_ref.actor.op"),
        ({"a": {"data.train_batch_size": 1}}, "policy `a` can't have `data.train_batch_size` of its own"),
        ({"a": {"actor_rollout_ref.rollout.n": 1}}, "policy `a` can't have `actor_rollout_ref.rollout.n` of its own"),
        ({"a": {"actor_rollout_ref.rollout.temperature": 0.7}}, "rollout.temperature` of its own; set it for all"),
        ({"a": {"actor_rollout_ref.rollout.val_kwargs.top_p": 0.7}}, "val_kwargs.top_p` of its own; set it for all"),
        ({"a": {"actor_rollout_ref.actor.ppo_epochs": 0}}, "policy `a`: `actor_rollout_ref.actor.ppo_epochs` is 0"),
        ({"a": {"trainable": "yes"}}, "`trainable` of a policy is 'yes'"),
        ({"a": 3}, "`agentlightning.policies.a` is 3; a policy is a mapping"),
        ({"a-b": {}}, "'a-b'; it is the name of a resource"),
        ({"a": {"trainable": False}, "b": {"trainable": False}}, "none that is `trainable`"),
        (
            {"a": {"actor_rollout_ref.actor.policy_loss.loss_mode": "dro"}},
            "policy `a`: `actor_rollout_ref.actor.policy",
        ),
    ],
)
def test_what_a_policy_cannot_have(policies: dict[str, Any], part: str):
    message = error_of(**policies)
    assert part in message
    assert "\n" not in message
