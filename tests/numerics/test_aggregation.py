"""Aggregation: from losses per token to one number, worked out by hand, and the packed weights against it."""

import numpy as np
import pytest
import torch

from agentlightning.learner.losses import AGG_MODES, agg_loss, token_weights, turn_weights
from agentlightning.types import ConfigError

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
        ("per-rollout-mean", (1.5 + 4) / 2),  # every row is one unbroken turn
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


@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
def test_masks_may_be_of_any_type(mode):
    whole = agg_loss(LOSS, MASK, mode)
    assert agg_loss(LOSS, MASK.bool(), mode) == agg_loss(LOSS, MASK.float(), mode) == whole


def test_totals_scale_and_unknown_names():
    assert agg_loss(LOSS, MASK, "token-sum", dp_size=4).item() == 60.0
    assert agg_loss(LOSS, MASK, "seq-mean-token-sum-norm", loss_scale_factor=10).item() == pytest.approx(0.75)
    assert agg_loss(LOSS, MASK, "token-mean", batch_num_tokens=torch.tensor(10)).item() == pytest.approx(1.5)
    for mode in ("seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean", "per-rollout-mean"):
        with pytest.raises(ValueError, match="`global_batch_size` is needed when `dp_size` is 2"):
            agg_loss(LOSS, MASK, mode, dp_size=2)


@pytest.mark.parametrize("mode", AGG_MODES)
def test_nothing_trained_is_nan_or_a_sum_of_zero(mode):
    result = agg_loss(LOSS, torch.zeros(3, 3), mode)
    assert result.item() == 0.0 if mode == "token-sum" else result.isnan()


@pytest.mark.parametrize("mode", AGG_MODES)
def test_aggregation_passes_gradcheck(mode):
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1]])
    losses = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: agg_loss(values, mask, mode), (losses,))


def test_per_rollout_mean_weighs_turns_alike():
    """Rollout 0 has turns of 2 and 1 tokens with tool output between them, rollout 1 one turn."""
    losses = torch.tensor([[1.0, 3.0, 99.0, 8.0], [5.0, 7.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 0]])
    assert agg_loss(losses, mask, "per-rollout-mean").item() == pytest.approx(((2 + 8) / 2 + 6) / 2)
    weights = turn_weights("per-rollout-mean", [[2, 1], [2]])
    assert [w.tolist() for w in weights] == [[0.125, 0.25], [0.25]]


def test_per_rollout_mean_leaves_out_turns_and_rollouts_without_trained_tokens():
    weights = turn_weights("per-rollout-mean", [[2, 0, 6], [0], [], [4]])
    assert weights[0][[0, 2]].tolist() == pytest.approx([1 / 8, 1 / 24])
    assert weights[3].tolist() == pytest.approx([1 / 8])
    assert [len(w) for w in weights] == [3, 1, 0, 1]


@pytest.mark.parametrize("mode", AGG_MODES)
def test_weights_of_turns_are_those_of_the_rollout_where_it_has_one(mode):
    counts = [4, 1, 0, 3]
    of_turns = turn_weights(mode, [[count] for count in counts], loss_scale_factor=7.0)
    of_rollouts = token_weights(mode, counts, loss_scale_factor=7.0)
    assert [w[0] for w in of_turns] == pytest.approx(of_rollouts.tolist())
    if mode != "per-rollout-mean":
        halves = turn_weights(mode, [[2, 2], [1], [0], [1, 2]], loss_scale_factor=7.0)
        assert [w[0] for w in halves] == pytest.approx(of_rollouts.tolist())


def test_norm_of_packed_weights_is_the_longest_rollout_or_the_given_factor():
    assert token_weights("seq-mean-token-sum-norm", [2, 4]).tolist() == [0.125, 0.125]
    assert token_weights("seq-mean-token-sum-norm", [2, 4], loss_scale_factor=10).tolist() == pytest.approx([0.05] * 2)


def test_weights_of_workers_average_to_those_of_one():
    """Two workers hold a rollout each, gradients are averaged over them."""
    one = token_weights("token-mean", [3, 5])
    two = token_weights("token-mean", [3, 5], dp_size=2)
    assert (two / 2).tolist() == one.tolist()
    assert turn_weights("per-rollout-mean", [[1, 1]], dp_size=2)[0].tolist() == [1.0, 1.0]
