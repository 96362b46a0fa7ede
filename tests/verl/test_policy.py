"""What one step teaches a policy, on a tiny model and rollouts made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentlightning.learner.losses import register_policy_loss
from agentlightning.types import TrainingError
from agentlightning.verl.experience import Experience
from agentlightning.verl.policy import PolicyRun
from agentlightning.verl.updates import pairs
from tests.e2e.letters import make_model

from .deployed import answered, config, deploy, group, scored

LOSS = "actor_rollout_ref.actor.policy_loss.loss_mode"
CORRECTION = "algorithm.rollout_correction"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def learn(policy: PolicyRun, groups: Any, step: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    policy.learn(groups, step, metrics)
    return metrics


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def test_a_step_makes_better_answers_likelier_and_counts_a_version(path: Path) -> None:
    policy, served = deploy(config(path))
    groups = [group(served.model, 0, 1.0, 0.0)]
    before = weights(served.model)
    metrics = learn(policy, scored(*groups), 1)
    assert served.engine.version == 1
    assert metrics["training/rollout_logprob_gap"] < 1e-5
    assert metrics["training/rollout_probs_diff_max"] < 1e-5
    assert metrics["actor/pg_loss"] == pytest.approx(metrics["actor/loss"])
    assert not torch.equal(weights(served.model), before)
    good, bad = groups[0]
    for number, (old, direction) in enumerate(((good, 1), (bad, -1))):
        new = answered(served.model, 0, number, 0.0, prompt=(5, 6), response=range(10 + number, 12 + 2 * number))
        change = new.episode.turns[0].call.logprobs.sum() - old.episode.turns[0].call.logprobs.sum()
        assert change * direction > 0


def test_nothing_to_learn_moves_the_schedule_and_the_version_but_no_weight(path: Path) -> None:
    policy, served = deploy(config(path))
    before = weights(served.model)
    assert learn(policy, [], 1) == {"actor/lr": 1e-2}
    assert torch.equal(weights(served.model), before)
    assert (served.engine.version, policy.learner.steps) == (1, 1)


def test_log_probs_are_checked_against_a_fresh_forward_every_fifty_steps(path: Path) -> None:
    policy, served = deploy(config(path))
    known = {n: learn(policy, scored(group(served.model, 0, 1.0, 0.0, step=n)), n) for n in (1, 2, 51)}
    assert {step for step, row in known.items() if "training/rollout_probs_diff_mean" in row} == {1, 51}


def test_the_gap_is_of_what_these_weights_sampled_and_somebody_recorded(path: Path) -> None:
    """Earlier answers of SPIN came from other weights, and log-probs made anew are no record."""
    keys = {"algorithm.adv_estimator": None, LOSS: "online_dpo", "agentlightning.spin_pairs": "previous"}
    policy, served = deploy(config(path, **keys))
    earlier = scored(group(served.model, 0, 0.5, 0.0, step=1))
    for item in earlier[0]:
        item.episode.turns[0].call.logprobs[:] -= 1.0
    now = scored(group(served.model, 0, 1.0, 0.0, step=51))
    metrics: dict[str, float] = {}
    policy.learn(now, 51, metrics, earlier=earlier)
    assert metrics["actor/dpo_loss"] > 0
    assert metrics["training/rollout_probs_diff_valid"] == 1.0
    assert metrics["training/rollout_probs_diff_max"] < 1e-5


def test_log_probs_that_nobody_recorded_are_made_and_no_gap(path: Path) -> None:
    policy, served = deploy(config(path))
    (each,) = [group(served.model, 0, 1.0, 0.0)]
    for item in each:
        item.episode.turns[0].call.logprobs[:] = np.nan
    lost = [replace(s, episodes={"main_llm": replace(s.episode, retokenized=1)}) for s in each]
    metrics = learn(policy, scored(lost), 2)
    assert metrics["training/rollout_probs_diff_valid"] == 0.0
    assert "training/rollout_probs_diff_max" not in metrics
    assert metrics["training/rollout_logprob_gap"] < 1e-5


def test_the_loss_of_bypass_mode_is_the_one_that_it_names(path: Path) -> None:
    """Rejection of everything: the clipped loss of the default mode would move the weights."""
    keys = {
        f"{CORRECTION}.bypass_mode": True,
        f"{CORRECTION}.loss_type": "reinforce",
        f"{CORRECTION}.rollout_rs": "token_k1",
        f"{CORRECTION}.rollout_rs_threshold": "2.0_3.0",
        "actor_rollout_ref.actor.optim.weight_decay": 0.0,
    }
    policy, served = deploy(config(path, **keys))
    before = weights(served.model)
    metrics = learn(policy, scored(group(served.model, 0, 1.0, 0.0)), 1)
    assert metrics["rollout_corr/rollout_rs_masked_fraction"] == 1.0
    assert torch.equal(weights(served.model), before)


def test_correction_takes_fresh_log_probs_for_the_old_ones(path: Path) -> None:
    """What was recorded is off by 1 nat everywhere: weights e, cut to 2."""
    policy, served = deploy(config(path, **{f"{CORRECTION}.rollout_is": "token"}))
    groups = [group(served.model, 0, 1.0, 0.0)]
    for each in groups[0]:
        each.episode.turns[0].call.logprobs[:] -= 1.0
    metrics = learn(policy, scored(*groups), 2)
    assert metrics["rollout_corr/rollout_is_mean"] == pytest.approx(2.0)
    assert metrics["training/rollout_logprob_gap"] < 1e-5, "the first ratio is 1: old log-probs are fresh"
    assert metrics["actor/ppo_kl"] == pytest.approx(0.0, abs=1e-5)


BF16 = {"actor_rollout_ref.actor.fsdp_config.model_dtype": "bf16"}


@pytest.mark.parametrize("bypass", [False, True])
def test_in_bf16_old_log_probs_are_fresh_unless_bypassed(path: Path, bypass: bool) -> None:
    """What was recorded is off by 1 nat everywhere."""
    policy, served = deploy(config(path, **BF16, **{f"{CORRECTION}.bypass_mode": bypass}))
    groups = [group(served.model, 0, 1.0, 0.0, step=2)]
    for each in groups[0]:
        each.episode.turns[0].call.logprobs[:] -= 1.0
    metrics = learn(policy, scored(*groups), 2)
    assert metrics["training/rollout_logprob_gap"] == pytest.approx(1.0, abs=0.05)
    assert metrics["actor/abs_log_ratio"] == pytest.approx(float(bypass), abs=0.05)
    assert ("training/rollout_probs_diff_max" in metrics) is not bypass


def test_rejected_rollouts_do_not_move_the_weights(path: Path) -> None:
    keys = {
        f"{CORRECTION}.rollout_rs": "seq_mean_k3",
        f"{CORRECTION}.rollout_rs_threshold": 0.01,
        "actor_rollout_ref.actor.optim.weight_decay": 0.0,
    }
    policy, served = deploy(config(path, **keys))
    before = weights(served.model)
    groups = [group(served.model, 0, 1.0, 0.0)]
    for each in groups[0]:
        each.episode.turns[0].call.logprobs[:] -= 1.0
    metrics = learn(policy, scored(*groups), 2)
    assert metrics["rollout_corr/rollout_rs_masked_fraction"] == 1.0
    assert torch.equal(weights(served.model), before)


def test_kl_in_the_reward_is_what_the_policy_has_left_the_reference_by(path: Path) -> None:
    """The first step has left nothing; the second is charged, and the controller moves."""
    keys = {
        "algorithm.use_kl_in_reward": True,
        "algorithm.kl_ctrl.type": "adaptive",
        "algorithm.kl_ctrl.kl_coef": 0.5,
        "algorithm.kl_ctrl.horizon": 100,
        "algorithm.kl_penalty": "k2",
    }
    policy, served = deploy(config(path, **keys))
    first = learn(policy, scored(group(served.model, 0, 1.0, 0.0)), 1)
    assert first["actor/reward_kl_penalty"] == pytest.approx(0.0, abs=1e-9)
    assert first["critic/rewards/max"] == pytest.approx(1.0)
    assert policy.kl.value == pytest.approx(0.5 * (1 - 0.2 * 2 / 100))  # far below the target, two rollouts
    groups = [group(served.model, 0, 1.0, 0.0)]
    second = learn(policy, scored(*groups), 2)
    assert policy.reference is not None
    rows = Experience.of(scored(*groups)).rows
    gaps = [
        row.columns["rollout_logprobs"] - reference
        for row, reference in zip(rows, policy.reference.logprobs(rows), strict=True)
    ]
    assert second["actor/reward_kl_penalty_coeff"] == pytest.approx(0.498)
    assert second["actor/reward_kl_penalty"] == pytest.approx(np.mean([(gap**2 / 2).mean() for gap in gaps]), rel=1e-3)
    assert second["critic/rewards/max"] == pytest.approx(1 - 0.498 * float((gaps[0] ** 2 / 2).sum()), rel=1e-4)


def test_the_critic_learns_alone_until_its_warmup_is_over(path: Path) -> None:
    keys = {"algorithm.adv_estimator": "gae", "trainer.critic_warmup": 3, "critic.optim.lr": 1e-2}
    policy, served = deploy(config(path, **keys))
    assert policy.critic is not None
    before, values = weights(served.model), weights(policy.critic.model)
    for step in (1, 2):
        metrics = learn(policy, scored(group(served.model, 0, 1.0, 0.0)), step)
        assert "actor/pg_loss" not in metrics
    assert torch.equal(weights(served.model), before)
    assert not torch.equal(weights(policy.critic.model), values)
    assert metrics["critic/values/mean"] != 0.0, "the first step moved the head"
    assert metrics["critic/vf_explained_var"] <= 1.0
    assert "actor/pg_loss" in learn(policy, scored(group(served.model, 0, 1.0, 0.0)), 3)


def test_pf_ppo_steps_on_as_many_rollouts_as_there_were(path: Path) -> None:
    """Only the rollout of reward 2 weighs anything: four of it make two mini-batches of one task each."""
    keys = {
        "algorithm.adv_estimator": "gae",
        "algorithm.use_pf_ppo": True,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 1,
    }
    policy, served = deploy(config(path, **keys))
    seen: list[list[int]] = []
    update = policy.learner.update

    def watched(rows: Any, objective: Any) -> Any:
        seen.append([row.trained for row in rows])
        return update(rows, objective)

    policy.learner.update = watched
    learn(policy, scored(group(served.model, 0, 0.0, 2.0), group(served.model, 1, 0.0, 0.0)), 1)
    assert seen == [[3, 3], [3, 3]]


def numbered(*rewards: tuple[int, int, float]) -> Experience:
    """(step, task, reward) of one rollout each."""
    from .rollouts import one_turn

    return Experience.of(
        scored([one_turn(task, number, reward, step=step) for number, (step, task, reward) in enumerate(rewards)])
    )


def test_pairs_are_the_best_and_the_worst_answer_to_a_task() -> None:
    experience = numbered((1, 0, 0.5), (1, 0, 1.0), (1, 0, 0.0), (1, 1, 1.0), (1, 1, 1.0), (1, 2, 0.0), (1, 2, 0.1))
    assert pairs(experience, 1) == [(1, 2), (6, 5)], "task 1 is a tie"


def test_pairs_against_earlier_answers_need_a_better_one() -> None:
    experience = numbered((2, 0, 0.5), (2, 0, 0.2), (1, 0, 0.4), (1, 0, 0.3), (2, 1, 0.5), (2, 1, 0.1), (1, 1, 0.6))
    assert pairs(experience, 2) == [(0, 3)], "task 1 was answered better before"
    first = numbered((1, 0, 0.5), (1, 0, 0.2))
    assert pairs(first, 1) == [(0, 1)], "the first time there is nothing earlier"


def test_online_dpo_prefers_the_chosen_answer_and_the_reference_follows(path: Path) -> None:
    """Reference and policy are the same before the step: the loss is log 2, at any beta."""
    keys = {"algorithm.adv_estimator": None, LOSS: "online_dpo", "trainer.ref_update_freq": 2}
    policy, served = deploy(config(path, **keys))
    assert policy.reference is not None
    start = weights(policy.reference.model)

    def step_of(step: int) -> dict[str, float]:
        tie = group(served.model, 1, 1.0, 1.0, step=step)
        return learn(policy, scored(group(served.model, 0, 0.0, 1.0, step=step), tie), step)

    assert step_of(1)["actor/dpo_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert torch.equal(weights(policy.reference.model), start)
    moved = weights(served.model)
    assert step_of(2)["actor/dpo_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert torch.equal(weights(policy.reference.model), moved), "at step 2 the reference became the policy"
    assert step_of(3)["actor/rewards_margins"] > 0, "the last step made the chosen answer likelier"


def test_sppo_fits_log_ratios_to_rewards_above_the_soft_mean(path: Path) -> None:
    """Log-ratios are 0 before the step, so the loss is the mean square of what they should be."""
    policy, served = deploy(config(path, **{"algorithm.adv_estimator": None, LOSS: "sppo"}))
    metrics = learn(policy, scored(group(served.model, 0, 0.0, 1.0)), 1)
    soft = math.log((math.exp(0) + math.exp(1)) / 2)
    assert metrics["actor/sppo_loss"] == pytest.approx((soft**2 + (1 - soft) ** 2) / 2, rel=1e-4)
    assert metrics["actor/preference_mean"] == pytest.approx((1 - 2 * soft) / 2, rel=1e-4)


def test_gdpo_weighs_its_components(path: Path) -> None:
    """Rewards are the same; `a` is 1 and 0, `b` 0 and 1 and weighs twice as much: the second answer is the better."""
    keys = {
        "algorithm.adv_estimator": "gdpo",
        "algorithm.gdpo_reward_keys": ["a", "b"],
        "algorithm.gdpo_reward_weights": [1.0, 2.0],
    }
    policy, served = deploy(config(path, **keys))
    answers = [
        answered(served.model, 0, 0, 1.0, response=(7, 8), a=1.0, b=0.0),
        answered(served.model, 0, 1, 1.0, response=(9, 10), a=0.0, b=1.0),
    ]
    metrics = learn(policy, scored(answers), 1)
    deviation = (4 / 3) ** 0.5  # whitened over four tokens of -x, -x, x, x
    assert metrics["critic/advantages/max"] == pytest.approx(1 / deviation, rel=1e-4)


def test_steps_that_are_not_finite_are_counted_and_change_nothing(path: Path) -> None:
    @register_policy_loss("test_nan")
    def nan(*, log_prob: torch.Tensor, **_: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        return (log_prob * float("nan")).sum(), {}

    del nan
    policy, served = deploy(config(path, **{LOSS: "test_nan", "actor_rollout_ref.actor.ppo_epochs": 2}))
    before = weights(served.model)
    groups = [group(served.model, 0, 1.0, 0.0)]
    for step in (1, 2):
        assert learn(policy, scored(*groups), step)["actor/skipped_nonfinite"] == 2.0
    assert torch.equal(weights(served.model), before)
    with pytest.raises(TrainingError, match=r"not finite in 5 steps in a row .* lower `actor.optim.lr`"):
        learn(policy, scored(*groups), 3)


def test_a_custom_estimator_gets_one_row_a_rollout(path: Path) -> None:
    from agentlightning.learner.advantages import register_adv_est

    seen: dict[str, Any] = {}

    @register_adv_est("test_constant")
    def constant(*, token_level_rewards: Any, response_mask: Any, index: Any, config: Any, **_: Any) -> Any:
        seen.update(rewards=token_level_rewards.tolist(), mask=response_mask.tolist(), index=index, gamma=config.gamma)
        return response_mask * 2.0, response_mask

    del constant
    policy, served = deploy(config(path, **{"algorithm.adv_estimator": "test_constant"}))
    metrics = learn(policy, scored(group(served.model, 0, 1.0, 0.5)), 1)
    assert seen["rewards"] == [[0, 1.0, 0], [0, 0, 0.5]]
    assert seen["mask"] == [[1, 1, 0], [1, 1, 1]]
    assert seen["index"][0] == seen["index"][1]
    assert seen["gamma"] == 1.0
    assert metrics["critic/advantages/mean"] == 2.0
