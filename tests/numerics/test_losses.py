"""PPO's clipped loss and the aggregation modes against numbers worked out by hand, and by gradient checks."""

import math

import numpy as np
import pytest
import torch

from agentlightning.learner.losses import agg_loss, compute_policy_loss, token_weights
from agentlightning.types import ConfigError

CLIP = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.3, "clip_ratio_c": 3.0}


def one_token(ratio, advantage, **config):
    loss, metrics = compute_policy_loss(
        "vanilla",
        old_log_prob=torch.zeros(1, 1, dtype=torch.float64),
        log_prob=torch.tensor([[math.log(ratio)]], dtype=torch.float64),
        advantages=torch.tensor([[advantage]], dtype=torch.float64),
        response_mask=torch.ones(1, 1),
        config={**CLIP, **config},
    )
    return loss.item(), metrics


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped", "clipped_lower"),
    [
        (1.1, 2.0, -2.2, 0, 0),  # inside: -A r
        (1.5, 2.0, -2.6, 1, 0),  # above: -A (1 + 0.3)
        (0.5, 2.0, -1.0, 0, 0),  # below, A > 0: not clipped, the gradient may bring it back
        (0.5, -1.0, 0.8, 1, 0),  # below, A < 0: -A (1 - 0.2)
        (1.5, -1.0, 1.5, 0, 0),  # above, A < 0: not clipped
        (5.0, -1.0, 3.0, 0, 1),  # far above, A < 0: dual clip at -A c
    ],
)
def test_vanilla_by_hand(ratio, advantage, expected, clipped, clipped_lower):
    loss, metrics = one_token(ratio, advantage)
    assert loss == pytest.approx(expected, abs=1e-12)
    assert metrics["actor/pg_clipfrac"] == clipped
    assert metrics["actor/pg_clipfrac_lower"] == clipped_lower
    assert metrics["actor/ppo_kl"] == pytest.approx(-math.log(ratio), abs=1e-12)


def test_clip_ratio_alone_sets_both_bounds():
    assert compute_policy_loss(
        "vanilla",
        old_log_prob=torch.zeros(1, 1),
        log_prob=torch.full((1, 1), 1.0),
        advantages=torch.ones(1, 1),
        response_mask=torch.ones(1, 1),
        config={"clip_ratio": 0.1},
    )[0].item() == pytest.approx(-1.1, abs=1e-6)


def test_dual_clip_bound_must_exceed_one():
    with pytest.raises(ValueError, match="clip_ratio_c"):
        one_token(1.0, 1.0, clip_ratio_c=1.0)


def test_gradient_is_the_policy_gradient_at_ratio_one():
    log_prob = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    loss, _ = compute_policy_loss(
        "vanilla",
        old_log_prob=log_prob.detach(),
        log_prob=log_prob,
        advantages=torch.tensor([[0.5, -0.25]], dtype=torch.float64),
        response_mask=torch.ones(1, 2),
        config=CLIP,
    )
    loss.backward()
    assert log_prob.grad[0].tolist() == pytest.approx([-0.25, 0.125])  # -A / N


def test_vanilla_passes_gradcheck():
    old = torch.randn(3, 4, dtype=torch.float64)
    advantages = torch.randn(3, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])

    def loss(log_prob):
        return compute_policy_loss(
            "vanilla", old_log_prob=old, log_prob=log_prob, advantages=advantages, response_mask=mask, config=CLIP
        )[0]

    point = (old + 0.05 * torch.randn_like(old)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (point,))
    (gradient,) = torch.autograd.grad(loss(point), point)
    assert gradient[mask == 0].abs().max().item() == 0.0


LOSS = torch.tensor([[1.0, 2.0, float("nan")], [3.0, 4.0, 5.0], [float("inf"), float("nan"), 0.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 15 / 5),
        ("token-sum", 15.0),
        ("seq-mean-token-sum", (3 + 12) / 2),  # the row without a trained token does not count
        ("seq-mean-token-sum-norm", (3 / 3 + 12 / 3) / 2),
        ("seq-mean-token-mean", (1.5 + 4) / 2),
    ],
)
def test_aggregation_by_hand(mode, expected):
    assert agg_loss(LOSS, MASK, mode).item() == pytest.approx(expected, rel=1e-6)


def test_aggregation_with_global_totals():
    assert agg_loss(LOSS, MASK, "token-mean", dp_size=2, batch_num_tokens=10).item() == pytest.approx(3.0)
    assert agg_loss(LOSS, MASK, "seq-mean-token-sum", dp_size=2, global_batch_size=6).item() == pytest.approx(5.0)
    with pytest.raises(ValueError, match="batch_num_tokens"):
        agg_loss(LOSS, MASK, "token-mean", dp_size=2)
    with pytest.raises(ConfigError, match="'mean' is not one of token-mean"):
        agg_loss(LOSS, MASK, "mean")


@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"])
def test_token_weights_equal_the_padded_aggregation(mode):
    """One row a rollout: the packed weights and the padded function are the same sum."""
    generator = np.random.default_rng(0)
    counts = [4, 1, 3]
    losses = torch.from_numpy(generator.normal(size=(3, 4)))
    mask = torch.tensor([[i < count for i in range(4)] for count in counts])
    weights = torch.from_numpy(token_weights(mode, counts)).double()
    packed = (losses * mask * weights[:, None]).sum().item()
    assert packed == pytest.approx(agg_loss(losses, mask, mode).item(), rel=1e-6)


def test_a_rollout_weighs_the_same_however_many_tokens_others_have():
    weights = token_weights("seq-mean-token-mean", [10, 2])
    assert (weights * [10, 2]).tolist() == pytest.approx([0.5, 0.5])


def test_token_weights_of_an_empty_batch_and_an_unknown_mode():
    assert token_weights("token-mean", [0, 0]).tolist() == [1.0, 1.0]
    with pytest.raises(ConfigError, match="'sum'"):
        token_weights("sum", [1])
