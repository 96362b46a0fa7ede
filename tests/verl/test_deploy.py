"""Models, engines and learners from a configuration: who shares weights with whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agentlightning.credit import get_credit
from agentlightning.learner.lora import is_lora
from agentlightning.types import ModelError
from agentlightning.verl.deploy import Bases, make_policy, serve
from tests.e2e.letters import make_model

from .batches import identical
from .deployed import config, deploy, group, scored

KL = {"actor_rollout_ref.actor.use_kl_loss": True}
LORA = {"actor_rollout_ref.model.lora_rank": 2}
PPO = {"algorithm.adv_estimator": "gae"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def storages(model: Any) -> set[int]:
    return {p.data_ptr() for p in model.parameters()}


def test_the_engine_samples_from_the_learners_own_weights(path: Path) -> None:
    policy, served = deploy(config(path))
    assert policy.learner.model is served.model
    assert served.engine._model is served.model
    assert (policy.critic, policy.reference, served.base) == (None, None, None)
    assert {p.dtype for p in served.model.parameters()} == {torch.float32}


POLICY_BF16 = {"actor_rollout_ref.actor.fsdp_config.model_dtype": "bf16"}
CRITIC_BF16 = {"critic.fsdp.model_dtype": "bfloat16"}


def dtypes(model: Any) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters()}


def test_a_policy_in_bf16_is_stepped_in_fp32_and_its_reference_is_as_it_is(path: Path) -> None:
    policy, served = deploy(config(path, **POLICY_BF16, **KL))
    assert policy.reference is not None
    assert policy.learner.model is served.model is served.engine._model
    assert dtypes(served.model) == dtypes(policy.reference.model) == {torch.bfloat16}
    assert {p.dtype for p in policy.learner.parameters.values()} == {torch.float32}


@pytest.mark.parametrize("own", [{}, {"critic.model.path": "the policy's"}])
def test_policy_and_critic_have_precisions_of_their_own(path: Path, own: dict[str, Any]) -> None:
    own = {key: str(path) for key in own}
    for changes, ours, critics in (
        (POLICY_BF16, torch.bfloat16, torch.float32),
        (CRITIC_BF16, torch.float32, torch.bfloat16),
        ({**POLICY_BF16, **CRITIC_BF16}, torch.bfloat16, torch.bfloat16),
    ):
        policy, served = deploy(config(path, **PPO, **changes, **own))
        assert policy.critic is not None
        assert (dtypes(served.model), dtypes(policy.critic.model)) == ({ours}, {critics})
        assert policy.critic.head.weight.dtype == torch.float32


def test_adapters_share_a_base_of_their_own_precision_only(path: Path) -> None:
    adapters = {**PPO, **LORA, "critic.model.lora_rank": 3, **POLICY_BF16}
    for changes, shared in ((CRITIC_BF16, True), ({}, False)):
        policy, served = deploy(config(path, **adapters, **changes))
        assert policy.critic is not None
        assert bool(storages(policy.critic.model) & storages(served.model)) is shared
        assert policy.critic.model.dtype == (torch.bfloat16 if shared else torch.float32)


def test_a_reference_is_a_frozen_copy_of_what_the_policy_is_at_the_start(path: Path) -> None:
    policy, served = deploy(config(path, **KL))
    assert policy.reference is not None
    assert not storages(policy.reference.model) & storages(served.model)
    assert not any(p.requires_grad for p in policy.reference.model.parameters())
    assert all(
        torch.equal(a, b) for a, b in zip(policy.reference.model.parameters(), served.model.parameters(), strict=True)
    )


def test_the_base_of_an_adapter_is_its_reference_at_no_cost(path: Path) -> None:
    policy, served = deploy(config(path, **KL, **LORA))
    assert policy.reference is not None
    assert is_lora(served.model)
    assert not is_lora(policy.reference.model)
    assert storages(policy.reference.model) < storages(served.model)


def test_a_reference_that_follows_has_an_adapter_of_its_own_on_the_shared_base(path: Path) -> None:
    policy, served = deploy(config(path, **KL, **LORA, **{"trainer.ref_update_freq": 1}))
    assert policy.reference is not None
    trained = {p.data_ptr() for p in served.model.parameters() if p.requires_grad}
    assert not storages(policy.reference.model) & trained
    assert storages(policy.reference.model) & storages(served.model)


def test_a_critic_has_weights_of_its_own_whatever_the_policy_trains(path: Path) -> None:
    for changes in ({}, LORA):
        policy, served = deploy(config(path, **PPO, **changes))
        assert policy.critic is not None
        assert not storages(policy.critic.model) & storages(served.model)
        assert all(p.requires_grad for p in policy.critic.model.parameters())


def test_a_critic_with_an_adapter_shares_the_base_of_a_policy_with_one(path: Path) -> None:
    policy, served = deploy(config(path, **PPO, **LORA, **{"critic.model.lora_rank": 3}))
    assert policy.critic is not None
    shared = storages(policy.critic.model) & storages(served.model)
    assert {p.data_ptr() for p in served.model.parameters() if not p.requires_grad} == shared
    alone, _ = deploy(config(path, **PPO, **{"critic.model.lora_rank": 3}))
    assert alone.critic is not None
    assert is_lora(alone.critic.model)


def test_a_critic_starts_from_a_model_of_its_own_where_one_is_named(path: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    policy, _ = deploy(config(path, **PPO, **{"critic.model.path": str(other)}))
    wanted, _ = deploy(config(other))
    assert policy.critic is not None
    names = dict(policy.critic.model.named_parameters())
    for name, parameter in wanted.learner.model.named_parameters():
        assert torch.equal(names[name], parameter), name
    with pytest.raises(ModelError, match="nowhere"):
        deploy(config(path, **PPO, **{"critic.model.path": str(tmp_path / "nowhere")}))


def test_a_frozen_policy_has_neither_critic_nor_reference(path: Path) -> None:
    cfg = config(path, **PPO, **KL, **{"agentlightning.policies": {"a": {}, "b": {"trainable": False}}})
    own = cfg.policies()["b"]
    policy = make_policy("b", cfg, own, serve(cfg, own), identical, 1)
    assert (policy.critic, policy.reference) == (None, None)


def test_schedules_run_over_the_steps_of_the_run_or_over_their_own(path: Path) -> None:
    optim = "actor_rollout_ref.actor.optim"
    warm = {f"{optim}.lr_warmup_steps_ratio": 0.5, f"{optim}.lr": 1.0}
    policy, _ = deploy(config(path, **warm), steps=4)
    assert [policy.learner.config.lr * policy.learner.schedule(step) for step in range(4)] == [0, 0.5, 1, 1]
    policy, _ = deploy(config(path, **warm, **{f"{optim}.total_training_steps": 8}), steps=4)
    assert [policy.learner.schedule(step) for step in range(4)] == [0, 0.25, 0.5, 0.75]


def test_adapters_of_several_policies_have_one_base(path: Path) -> None:
    """Each has its own adapter on it, and the base is the reference of both."""
    lora = {"actor_rollout_ref.model.lora_rank": 2}
    policies = {"writer": lora, "judge": {"actor_rollout_ref.model.lora_rank": 4}, "whole": {}}
    cfg, bases = config(path, **KL, **{"agentlightning.policies": policies}), Bases()
    served = {name: serve(cfg, own, bases) for name, own in cfg.policies().items()}
    writer, judge, whole = (storages(served[name].model) for name in policies)
    base = storages(served["writer"].base)
    assert base == storages(served["judge"].base) == writer & judge
    assert not whole & base, "its weights are trained"
    before = {name: [p.detach().clone() for p in each.model.parameters()] for name, each in served.items()}
    policy = make_policy("writer", cfg, cfg.policies()["writer"], served["writer"], get_credit(identical), 4)
    policy.learn(scored(group(served["writer"].model, 0, 1.0, 0.0)), 1, {})
    moved = {
        name: any(not torch.equal(a, b) for a, b in zip(before[name], each.model.parameters(), strict=True))
        for name, each in served.items()
    }
    assert moved == {"writer": True, "judge": False, "whole": False}
