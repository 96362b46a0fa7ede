"""Value loss, online DPO, SPPO and its soft mean at numbers worked out by hand, and their gradients."""

import math

import pytest
import torch

from agentlightning.learner.losses import compute_online_dpo_loss, compute_sppo_loss, compute_value_loss, softmean
from agentlightning.types import ConfigError

NAN = float("nan")


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def close(value):
    return pytest.approx(value, abs=1e-12)


# -- value -----------------------------------------------------------------------------------------------------------


def value_loss(vpreds, returns=1.0, values=0.0, **more):
    vpreds = tensor([[vpreds]]).requires_grad_()
    loss, clipfrac = compute_value_loss(
        vpreds=vpreds, returns=tensor([[returns]]), values=tensor([[values]]), response_mask=torch.ones(1, 1), **more
    )
    loss.backward()
    return loss.item(), vpreds.grad.item(), float(clipfrac)


@pytest.mark.parametrize(
    ("vpreds", "loss", "gradient", "clipped"),
    [
        (0.3, 0.245, -0.7, 0.0),  # inside: (0.3 - 1)^2 / 2, gradient v - R
        (0.8, 0.125, 0.0, 1.0),  # beyond 0.5 towards the return: (0.5 - 1)^2 / 2, no gradient
        (1.8, 0.32, 0.8, 0.0),  # beyond and past it: the plain error is larger
        (-0.8, 1.62, -1.8, 0.0),  # beyond on the wrong side: the plain error is larger
    ],
)
def test_value_loss_stops_where_the_prediction_has_moved_enough(vpreds, loss, gradient, clipped):
    assert value_loss(vpreds) == (close(loss), close(gradient), clipped)


def test_value_clip_range_and_aggregation():
    assert value_loss(0.8, cliprange_value=0.1)[0] == close(0.405)
    loss, clipfrac = compute_value_loss(
        vpreds=tensor([[1.0, 2.0, NAN], [4.0, NAN, NAN]]),
        returns=tensor([[0.0, 0.0, NAN], [0.0, NAN, NAN]]),
        values=tensor([[1.0, 2.0, NAN], [9.0, NAN, NAN]]),
        response_mask=tensor([[1, 1, 0], [1, 0, 0]]),
        loss_agg_mode="seq-mean-token-sum",
    )
    # The last one is clipped to 8.5: larger error, so it counts.
    assert loss.item() == close((0.5 + 2.0 + 8.5**2 / 2) / 2)
    assert clipfrac == close(1 / 3)


def test_value_loss_passes_gradcheck_and_ignores_what_is_masked():
    generator = torch.Generator().manual_seed(0)
    returns, values, noise = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(4, 5, generator=generator) < 0.7

    def loss(vpreds):
        return compute_value_loss(
            vpreds=torch.where(mask, vpreds, NAN),
            returns=torch.where(mask, returns, NAN),
            values=values,
            response_mask=mask,
        )[0]

    vpreds = (values + noise).requires_grad_()
    assert torch.autograd.gradcheck(loss, (vpreds,))
    (gradient,) = torch.autograd.grad(loss(vpreds), vpreds)
    assert gradient[~mask].abs().max() == 0.0


# -- online DPO ------------------------------------------------------------------------------------------------------

# z = (chosen - rejected) - (reference chosen - reference rejected): (3 - 1) - (1 - 1) = 2 and (0 - 4) - (0 - 1) = -3.
PAIRS = {
    "policy_chosen_logps": tensor([3.0, 0.0]),
    "policy_rejected_logps": tensor([1.0, 4.0]),
    "reference_chosen_logps": tensor([1.0, 0.0]),
    "reference_rejected_logps": tensor([1.0, 1.0]),
}


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"beta": 0.5}, (softplus(-1.0) + softplus(1.5)) / 2),
        ({"beta": 0.5, "reference_free": True}, (softplus(-1.0) + softplus(2.0)) / 2),  # z = 2 and -4
        (
            {"beta": 0.5, "label_smoothing": 0.25},
            (0.75 * softplus(-1.0) + 0.25 * softplus(1.0) + 0.75 * softplus(1.5) + 0.25 * softplus(-1.5)) / 2,
        ),
        ({"beta": 0.5, "loss_type": "ipo"}, (1.0 + 16.0) / 2),  # (z - 1)^2
    ],
)
def test_dpo_by_hand(settings, expected):
    assert compute_online_dpo_loss(**PAIRS, **settings).item() == close(expected)


def test_dpo_at_the_reference_is_log_two_with_half_beta_as_gradient():
    chosen, rejected = tensor([-5.0]).requires_grad_(), tensor([-7.0]).requires_grad_()
    loss = compute_online_dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1)
    loss.backward()
    assert loss.item() == close(math.log(2))
    assert (chosen.grad.item(), rejected.grad.item()) == (close(-0.05), close(0.05))


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_dpo_passes_gradcheck(loss_type):
    chosen, rejected = PAIRS["policy_chosen_logps"].clone(), PAIRS["policy_rejected_logps"].clone()
    rest = (PAIRS["reference_chosen_logps"], PAIRS["reference_rejected_logps"])
    assert torch.autograd.gradcheck(
        lambda c, r: compute_online_dpo_loss(c, r, *rest, loss_type=loss_type),
        (chosen.requires_grad_(), rejected.requires_grad_()),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "hinge"}, "'hinge' is not one of sigmoid, ipo"),  # verl's message names it, its code has it not
        ({"beta": 0.0}, "`dpo_beta` is 0.0"),
        ({"label_smoothing": 0.7}, "`dpo_label_smoothing` is 0.7"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "needs `dpo_loss_type` 'sigmoid'"),
    ],
)
def test_dpo_refuses_what_it_can_not_do(settings, message):
    with pytest.raises(ConfigError, match=message):
        compute_online_dpo_loss(**PAIRS, **settings)


# -- SPPO ------------------------------------------------------------------------------------------------------------

# Log-ratios of the rows: 0.5 + 0.25 = 0.75; -1; none. With eta 2: preferences 1 and -3.
SPPO = {
    "old_log_prob": tensor([[-1.0, -1.0, NAN], [-2.0, NAN, NAN], [NAN] * 3]),
    "log_prob": tensor([[-0.5, -0.75, NAN], [-3.0, NAN, NAN], [NAN] * 3]),
    "rewards": tensor([0.5, -1.5, 100.0]),
    "response_mask": tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]),
}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", (0.0625 + 4.0) / 2),
        ("seq-mean-token-sum", (0.0625 + 4.0) / 2),
        ("per-rollout-mean", (0.0625 + 4.0) / 2),
        ("token-sum", 0.0625 + 4.0),
        ("seq-mean-token-mean", (0.0625 / 2 + 4.0) / 2),
        ("seq-mean-token-sum-norm", (0.0625 + 4.0) / 2 / 3),
    ],
)
def test_sppo_by_hand(mode, expected):
    loss, log_ratios, preference = compute_sppo_loss(**SPPO, eta=2.0, loss_agg_mode=mode)
    assert loss.item() == pytest.approx(expected, rel=1e-8)
    assert log_ratios.tolist() == [0.75, -1.0, 0.0]
    assert preference.tolist() == [1.0, -3.0, 200.0]


def test_sppo_gradient_by_hand_and_none_where_masked():
    log_prob = SPPO["log_prob"].clone().requires_grad_()
    compute_sppo_loss(**{**SPPO, "log_prob": log_prob}, eta=2.0)[0].backward()
    # 2 (log-ratio - preference) / rows
    assert log_prob.grad.nan_to_num(99).tolist() == [
        [pytest.approx(-0.25), pytest.approx(-0.25), 0.0],
        [pytest.approx(2.0), 0.0, 0.0],
        [0.0, 0.0, 0.0],
    ]


def test_sppo_passes_gradcheck():
    generator = torch.Generator().manual_seed(1)
    old, noise = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, generator=generator) < 0.7

    def loss(log_prob):
        return compute_sppo_loss(old_log_prob=old, log_prob=log_prob, rewards=old[:, 0], response_mask=mask)[0]

    assert torch.autograd.gradcheck(loss, ((old + noise).requires_grad_(),))


def test_sppo_refuses_rewards_per_token_and_unknown_aggregation():
    with pytest.raises(ValueError, match="one number for each of 3 rows"):
        compute_sppo_loss(**{**SPPO, "rewards": torch.zeros(3, 3)})
    with pytest.raises(ConfigError, match="'mean' is not one of token-mean"):
        compute_sppo_loss(**SPPO, loss_agg_mode="mean")


def test_soft_mean_goes_from_the_mean_to_the_maximum():
    x = tensor([0.0, math.log(3.0)])
    assert softmean(x, 1.0).item() == close(math.log(2.0))  # log((1 + 3) / 2)
    assert softmean(x, 2.0).item() == close(math.log(5.0) / 2)  # log((1 + 9) / 2) / 2
    assert softmean(x, -1.0).item() == close(-math.log(2 / 3))
    assert softmean(x, 0.0).item() == close(math.log(3.0) / 2)
    assert softmean(x, 1e-6).item() == pytest.approx(x.mean().item(), abs=1e-5)
    assert softmean(1000 * x, 1.0).item() == pytest.approx(1000 * math.log(3.0) - math.log(2.0))
    assert softmean(torch.full((3, 2), 0.7, dtype=torch.float64), 1.0).item() == close(0.7)
