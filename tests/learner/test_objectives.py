"""Objectives on flat tokens: the numbers of the public padded functions, whatever the order and however split."""

import math

import numpy as np
import pytest
import torch

from agentlightning.learner.batch import Tokens
from agentlightning.learner.losses import (
    agg_loss,
    agg_mode_of,
    compute_online_dpo_loss,
    compute_policy_loss,
    compute_sppo_loss,
    compute_value_loss,
    policy_losses,
    register_policy_loss,
    token_weights,
    vanishes_without_advantage,
)
from agentlightning.learner.objectives import SPPO, CrossEntropy, OnlineDPO, Policy, Value
from agentlightning.types import ConfigError

CONFIG = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.3,
    "policy_loss": {"dro_beta": 0.3, "clip_cov_ratio": 1.0, "clip_cov_lb": 0.1, "kl_cov_ratio": 0.2},
    "rollout_correction": {
        "loss_type": "reinforce",
        "rollout_is": "sequence",
        "rollout_rs": "token_k3",
        "rollout_rs_threshold": 0.1,
    },
    "seed": 5,
}
LENGTHS = [5, 1, 7, 3]
MODES = [mode for mode in policy_losses() if not mode.startswith("test_")]


def padded(seed=0):
    """(B, T) columns in float64, each row a rollout whose trained tokens are a prefix."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))
    old = -3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    noise = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name in ("outputs", "advantages", "values", "returns", "ref")
    }
    return {
        "outputs": old + 0.3 * noise["outputs"],
        "old_logprobs": old,
        "ref_logprobs": old + 0.3 * noise["ref"],
        "advantages": noise["advantages"],
        "rollout_is_weights": noise["ref"].exp(),
        "values": noise["values"],
        "returns": noise["returns"],
        "mask": torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None],
    }


def flat(data, agg="token-mean", order=None, columns=("old_logprobs", "advantages")):
    """The same tokens as a flat list in any order, with the weights of `agg`."""
    mask = data["mask"]
    sequence = torch.arange(len(LENGTHS))[:, None].expand(mask.shape)[mask]
    weights = torch.from_numpy(token_weights(agg, LENGTHS).astype(np.float64))[sequence]
    found = {"weights": weights, **{name: data[name][mask] for name in columns}}
    order = torch.arange(len(sequence)) if order is None else order
    tokens = Tokens(columns={name: column[order] for name, column in found.items()}, sequence_N=sequence[order])
    return tokens, data["outputs"][mask][order]


def run(objective, tokens, outputs, entropy=None):
    outputs = outputs.clone().requires_grad_()
    parts, sums = objective(tokens, outputs, entropy)
    loss = sum(parts.values())
    loss.backward()
    return loss.item(), outputs.grad, {name: float(value) / len(tokens) for name, value in sums.items()}, parts


def public(mode, data, agg, **more):
    log_prob = data["outputs"].clone().requires_grad_()
    totals = {"batch_num_tokens": sum(LENGTHS), "global_batch_size": len(LENGTHS)}
    loss, metrics = compute_policy_loss(
        mode,
        old_log_prob=data["old_logprobs"],
        log_prob=log_prob,
        advantages=data["advantages"],
        response_mask=data["mask"],
        loss_agg_mode=agg,
        config={**CONFIG, "global_batch_info": totals},
        **more,
    )
    loss.backward()
    return loss.item(), log_prob.grad[data["mask"]], metrics


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("agg", ["token-mean", "seq-mean-token-sum"])
@pytest.mark.parametrize("weighed", [False, True])
def test_packed_tokens_give_the_loss_of_the_padded_function(mode, agg, weighed):
    data = padded()
    weights = {"rollout_is_weights": data["rollout_is_weights"]} if weighed else {}
    loss, gradient, metrics = public(mode, data, agg, **weights)
    columns = ("old_logprobs", "advantages", *weights)
    tokens, outputs = flat(data, agg_mode_of(mode, agg), columns=columns)
    found, slope, named, _ = run(Policy(mode, {**CONFIG, "loss_agg_mode": agg}), tokens, outputs)
    assert found == pytest.approx(loss, rel=1e-6, abs=1e-8)  # the weights of packed tokens are float32
    torch.testing.assert_close(slope, gradient, rtol=1e-6, atol=1e-9)
    assert {name: named[name] for name in metrics} == pytest.approx(metrics, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_tokens_does_not_matter(mode):
    """Nor does into how many rows a rollout fell: its tokens may stand anywhere."""
    data, order = padded(), torch.randperm(sum(LENGTHS), generator=torch.Generator().manual_seed(1))
    objective = Policy(mode, {**CONFIG, "loss_agg_mode": "seq-mean-token-mean"})
    loss, gradient, metrics, _ = run(objective, *flat(data, "seq-mean-token-mean"))
    if mode == "bypass_mode":  # tokens of a rollout keep their order there
        order = torch.cat([torch.arange(13, 16), torch.arange(13)])
    mixed, slope, same, _ = run(objective, *flat(data, "seq-mean-token-mean", order))
    assert mixed == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(slope, gradient[order], rtol=1e-12, atol=1e-14)
    assert same == pytest.approx(metrics, rel=1e-12)


def parts_of(tokens, outputs, size):
    for start in range(0, len(tokens), size):
        part = slice(start, start + size)
        yield (
            Tokens(columns={n: c[part] for n, c in tokens.columns.items()}, sequence_N=tokens.sequence_N[part]),
            outputs[part],
        )


COLUMNS = ("old_logprobs", "advantages", "ref_logprobs", "values", "returns")


@pytest.mark.parametrize(
    "objective",
    [
        CrossEntropy(),
        Value(0.2),
        *(Policy(mode, CONFIG, kl_loss_coef=0.1) for mode in MODES if Policy(mode).local),
    ],
    ids=lambda objective: getattr(objective, "loss_mode", type(objective).__name__),
)
def test_a_local_objective_is_a_sum_over_tokens(objective):
    assert objective.local
    tokens, outputs = flat(padded(), columns=COLUMNS)
    loss, gradient, metrics, _ = run(objective, tokens, outputs)
    pieces = [run(objective, *piece) for piece in parts_of(tokens, outputs, 3)]
    assert sum(piece[0] for piece in pieces) == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(torch.cat([piece[1] for piece in pieces]), gradient, rtol=1e-12, atol=1e-14)
    sizes = [len(piece) for piece, _ in parts_of(tokens, outputs, 3)]
    for name, value in metrics.items():
        total = sum(piece[2][name] * size for piece, size in zip(pieces, sizes, strict=True))
        assert total / len(tokens) == pytest.approx(value, abs=1e-12), name


def test_which_losses_are_local():
    assert {mode for mode in MODES if not Policy(mode).local} == {
        "gspo",
        "geo_mean",
        "clip_cov",
        "kl_cov",
        "bypass_mode",
    }
    assert not SPPO().local
    assert not OnlineDPO([(0, 1)]).local


def test_what_vanishes_without_advantage_does():
    """Rows without any advantage may be left out only where that changes nothing."""
    data = padded()
    data["advantages"] = torch.zeros_like(data["advantages"])
    for mode in MODES:
        if vanishes_without_advantage(mode):
            loss, gradient, _, _ = run(Policy(mode, CONFIG), *flat(data))
            assert (loss, gradient.abs().max().item()) == (0.0, 0.0), mode
            assert Policy(mode).local
    assert not any(map(vanishes_without_advantage, ("dro", "gspo", "geo_mean", "clip_cov", "kl_cov", "bypass_mode")))


def test_forced_aggregation():
    assert agg_mode_of("sapo", "token-mean") == agg_mode_of("geo_mean", "token-sum") == "seq-mean-token-mean"
    assert agg_mode_of("vanilla", "token-sum") == agg_mode_of("bypass_mode", "token-sum") == "token-sum"


# -- the other terms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agg", ["token-mean", "seq-mean-token-mean"])
def test_entropy_and_kl_are_aggregated_like_the_loss(agg):
    data = padded()
    entropy = torch.rand(data["mask"].shape, dtype=torch.float64).requires_grad_()
    tokens, outputs = flat(data, agg, columns=COLUMNS)
    objective = Policy("gpg", entropy_coeff=0.5, kl_loss_coef=0.25, kl_loss_type="k2")
    loss, gradient, metrics, parts = run(objective, tokens, outputs, entropy[data["mask"]])

    log_prob = data["outputs"].clone().requires_grad_()
    kl = 0.5 * (log_prob - data["ref_logprobs"]) ** 2
    wanted = agg_loss(-data["advantages"] * log_prob + 0.25 * kl - 0.5 * entropy.detach(), data["mask"], agg)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient, log_prob.grad[data["mask"]], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(entropy.grad[data["mask"]], -0.5 * tokens.columns["weights"], rtol=1e-12, atol=0.0)
    assert set(parts) == {"actor/pg_loss", "actor/entropy_loss", "actor/kl_penalty"}
    assert metrics["actor/kl_loss"] == pytest.approx(kl[data["mask"]].mean().item())
    assert metrics["actor/kl_coef"] == pytest.approx(0.25)
    assert metrics["actor/entropy"] == pytest.approx(entropy[data["mask"]].mean().item())


def test_terms_that_are_off_read_nothing():
    tokens, outputs = flat(padded())
    _, _, metrics, parts = run(Policy(), tokens, outputs, torch.ones(len(tokens)))
    assert list(parts) == ["actor/pg_loss"]
    assert not {"actor/kl_loss", "actor/kl_coef"} & set(metrics)
    gap = (outputs - tokens.columns["old_logprobs"]).abs().mean().item()
    assert metrics["actor/abs_log_ratio"] == pytest.approx(gap)


def test_value_objective_is_the_public_value_loss():
    data = padded()
    vpreds = data["outputs"].clone().requires_grad_()
    wanted, clipfrac = compute_value_loss(
        vpreds=vpreds,
        returns=data["returns"],
        values=data["values"],
        response_mask=data["mask"],
        cliprange_value=0.4,
        loss_agg_mode="seq-mean-token-mean",
    )
    wanted.backward()
    loss, gradient, metrics, _ = run(Value(0.4), *flat(data, "seq-mean-token-mean", columns=("values", "returns")))
    assert loss == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient, vpreds.grad[data["mask"]], rtol=1e-6, atol=1e-9)
    assert metrics["critic/vf_clipfrac"] == pytest.approx(float(clipfrac))
    assert metrics["critic/vpred_mean"] == pytest.approx(data["outputs"][data["mask"]].mean().item())


# -- losses of a user ------------------------------------------------------------------------------------------------


@register_policy_loss("test_objective")
def squared(*, old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights):
    """What a user might write for verl."""
    losses = -advantages * (log_prob - old_log_prob) * config.strength
    if rollout_is_weights is not None:
        losses = losses * rollout_is_weights
    loss = agg_loss(losses, response_mask, loss_agg_mode, **config.global_batch_info)
    return loss, {"actor/rows": log_prob.shape[0], "actor/width": log_prob.shape[1], "actor/sum": losses.sum()}


@pytest.mark.parametrize("agg", ["token-mean", "seq-mean-token-sum-norm"])
def test_a_registered_loss_sees_the_mini_batch_padded_by_rollout(agg):
    data = padded()
    order = torch.cat([torch.arange(6, 13), torch.arange(6), torch.arange(13, 16)])
    tokens, outputs = flat(data, order=order, columns=("old_logprobs", "advantages", "rollout_is_weights"))
    tokens = Tokens(columns=tokens.columns, sequence_N=10 * tokens.sequence_N)  # numbers may have gaps
    objective = Policy("test_objective", {"strength": 2.0, "loss_agg_mode": agg, "loss_scale_factor": 11})
    loss, gradient, metrics, _ = run(objective, tokens, outputs)
    wanted = -2 * data["advantages"] * data["rollout_is_weights"]
    scale = 16 if agg == "token-mean" else 4 * 11
    assert not objective.local
    assert loss == pytest.approx((wanted * (data["outputs"] - data["old_logprobs"]))[data["mask"]].sum().item() / scale)
    torch.testing.assert_close(gradient, (wanted / scale)[data["mask"]][order], rtol=1e-12, atol=1e-14)
    assert (metrics["actor/rows"], metrics["actor/width"]) == (4.0, 7.0)


@pytest.mark.parametrize("mode", ["test_objective", "bypass_mode"])
def test_padded_losses_can_not_be_aggregated_by_turns(mode):
    with pytest.raises(ConfigError, match="`loss_agg_mode` 'per-rollout-mean' needs losses per token"):
        Policy(mode, {"loss_agg_mode": "per-rollout-mean"})


# -- preferences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [False, True])
def test_online_dpo_sums_over_rollouts_and_pairs_them(free):
    data, pairs = padded(), [(2, 0), (3, 1)]
    logps = data["outputs"].clone().requires_grad_()
    policy = torch.where(data["mask"], logps, 0.0).sum(-1)
    reference = torch.where(data["mask"], data["ref_logprobs"], 0.0).sum(-1)
    wanted = compute_online_dpo_loss(
        policy[[2, 3]], policy[[0, 1]], reference[[2, 3]], reference[[0, 1]], beta=0.3, reference_free=free
    )
    wanted.backward()
    objective = OnlineDPO(pairs=np.array(pairs), beta=0.3, reference_free=free)
    loss, gradient, metrics, parts = run(objective, *flat(data, columns=() if free else ("ref_logprobs",)))
    assert list(parts) == ["actor/dpo_loss"]
    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    torch.testing.assert_close(gradient, logps.grad[data["mask"]], rtol=1e-12, atol=1e-14)
    rewards = 0.3 * (policy - (0 if free else reference)).detach()
    margins = [rewards[a].item() - rewards[b].item() for a, b in pairs]
    assert metrics["actor/rewards_margins"] == pytest.approx(sum(margins) / 2)
    assert metrics["actor/dpo_logits"] == pytest.approx(sum(margins) / 2 / 0.3)
    assert metrics["actor/rewards_chosen"] == pytest.approx((rewards[2] + rewards[3]).item() / 2)
    assert metrics["actor/rewards_accuracies"] == pytest.approx(sum(m > 0 for m in margins) / 2)
    assert metrics["actor/policy_chosen_logps"] == pytest.approx(((policy[2] + policy[3]) / 2).item())


def test_online_dpo_knows_rollouts_without_tokens():
    tokens = Tokens(columns={"ref_logprobs": torch.zeros(2)}, sequence_N=torch.tensor([0, 0]))
    loss, gradient, _, _ = run(OnlineDPO([(0, 5)], beta=1.0), tokens, torch.zeros(2))
    assert loss == pytest.approx(math.log(2))
    assert gradient.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("agg", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm", "token-sum"])
def test_sppo_objective_is_the_public_loss(agg):
    data = padded()
    rewards = torch.tensor([1.0, -0.5, 0.25, 2.0], dtype=torch.float64)
    data["advantages"] = rewards[:, None].expand(data["mask"].shape)
    log_prob = data["outputs"].clone().requires_grad_()
    wanted, log_ratios, preference = compute_sppo_loss(
        old_log_prob=data["old_logprobs"],
        log_prob=log_prob,
        rewards=rewards,
        response_mask=data["mask"],
        eta=0.7,
        loss_agg_mode=agg,
    )
    wanted.backward()
    loss, gradient, metrics, _ = run(SPPO(eta=0.7, loss_agg_mode=agg), *flat(data))
    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    torch.testing.assert_close(gradient, log_prob.grad[data["mask"]], rtol=1e-12, atol=1e-14)
    assert metrics["actor/log_ratio_mean"] == pytest.approx(log_ratios.mean().item())
    assert metrics["actor/preference_mean"] == pytest.approx(preference.mean().item())


def test_sppo_takes_the_same_regularisers():
    tokens, outputs = flat(padded(), columns=COLUMNS)
    objective = SPPO(entropy_coeff=0.5, kl_loss_coef=0.1)
    assert objective.needs_entropy
    assert not SPPO().needs_entropy
    _, _, metrics, parts = run(objective, tokens, outputs, torch.ones(len(tokens), dtype=torch.float64))
    assert parts["actor/entropy_loss"].item() == pytest.approx(-0.5, rel=1e-6)
    assert "actor/kl_loss" in metrics
